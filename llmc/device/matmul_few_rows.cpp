#include "device/matmul_few_rows.h"

#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__) && defined(LLMC_PRECISION_bf16)
#include <immintrin.h>
#define HAS_DOTS 1
#endif

#include "device/vec.h"
#include "parallel.h"

// With more rows arithmetic takes longer than reading w, and oneDNN's tiles are better at that.
enum { MOST_ROWS = 12 };
// Lanes of the processor's vectors, and rows of x and of w whose products are summed at once: as many as the registers hold.
#if defined(__AVX512F__)
enum { LANES = 16, ROWS_X = 8 };
#elif defined(__AVX__)
enum { LANES = 8, ROWS_X = 4 };
#else
enum { LANES = 4, ROWS_X = 4 };
#endif
enum { ROWS_W = 3 };
enum { STEP = 32 };       // elements of k taken at once
enum { ALONE = 1 << 16 }; // weights: fewer are not worth waking the other threads

typedef float V16 __attribute__((vector_size(64)));
typedef float V __attribute__((vector_size(4 * LANES)));
typedef uint32_t U __attribute__((vector_size(4 * LANES)));

template <typename V> static inline V load(const void *from) {
    V v;
    memcpy(&v, from, sizeof v);
    return v;
}

template <typename V> static inline void store(void *to, V v) { memcpy(to, &v, sizeof v); }

// Sums stay in registers only where loops over them are unrolled.
#define UNROLLED _Pragma("GCC unroll 32")

typedef float V4 __attribute__((vector_size(16)));

static inline V4 sum_quarters(const V16 &v) {
    typedef float V8 __attribute__((vector_size(32)));
    const V8 a = load<V8>(&v) + load<V8>((const char *)&v + sizeof(V8));
    return load<V4>(&a) + load<V4>((const char *)&a + sizeof(V4));
}

// The sums over the lanes of four vectors, each (q0 + q2) + (q1 + q3) of the sums of its quarters.
static inline V4 sum_lanes(const V16 &a, const V16 &b, const V16 &c, const V16 &d) {
    typedef int I4 __attribute__((vector_size(16)));
    const I4 low = {0, 4, 1, 5}, high = {2, 6, 3, 7};
    const V4 qa = sum_quarters(a), qb = sum_quarters(b), qc = sum_quarters(c), qd = sum_quarters(d);
    const V4 ab = __builtin_shuffle(qa, qb, low) + __builtin_shuffle(qa, qb, high);
    const V4 cd = __builtin_shuffle(qc, qd, low) + __builtin_shuffle(qc, qd, high);
    return __builtin_shuffle(ab, cd, I4{0, 1, 4, 5}) + __builtin_shuffle(ab, cd, I4{2, 3, 6, 7});
}

// ---- tiles: M rows of x and N of w, T the type that x is read in

template <typename T> struct Operands {
    const T *x; // first row, filled up with zeros to whole steps
    long x_pitch;
    const floatX *w; // first row
    long w_pitch;
};

// Asks for the step at w of the N rows after these. Nothing is read, so it may lie behind the matrix.
template <int N, typename T> static inline __attribute__((always_inline)) void prefetch_step(const T *w, long pitch) {
    for (int j = N; j < 2 * N; j++)
        for (int byte = 0; byte < STEP * (int)sizeof(T); byte += 64)
            __builtin_prefetch((const void *)((uintptr_t)w + sizeof(T) * (size_t)(j * pitch) + (size_t)byte));
}

// The last, incomplete step of w's rows, filled up with zeros.
template <int N> struct Rest {
    floatX w[N][STEP] = {};

    template <typename T> Operands<T> operands(const Operands<T> &o, int k, int whole) {
        for (int j = 0; j < N; j++)
            memcpy((void *)w[j], o.w + j * o.w_pitch + whole, sizeof(floatX) * (size_t)(k - whole));
        return {o.x + whole, o.x_pitch, w[0], STEP};
    }
};

template <int M, int N, typename D>
static inline void store_rows(D *d, const D *sums, const Product &p, int row, int column) {
    for (int i = 0; i < M; i++)
        memcpy((void *)(d + (long)(row + i) * p.n + column), (const void *)(sums + i * N), sizeof(D) * N);
}

template <int M, int N> static void store_tile(const Product &p, const V16 (&sum)[M][N], int row, int column) {
    constexpr int COUNT = (M * N + 3) / 4 * 4;
    alignas(64) float sums[COUNT];
    const V16 *v = sum[0];
    for (int s = 0; s < COUNT; s += 4) {
        const V4 four =
            sum_lanes(v[s], v[s + 1 < M * N ? s + 1 : s], v[s + 2 < M * N ? s + 2 : s], v[s + 3 < M * N ? s + 3 : s]);
        memcpy(sums + s, &four, sizeof four);
    }
    if (p.fp32_out) return store_rows<M, N>((float *)p.d, sums, p, row, column);
    floatX rounded[COUNT];
    EACH_ELEMENT
    for (int s = 0; s < COUNT; s++) from_float(rounded[s], sums[s]);
    store_rows<M, N>((floatX *)p.d, rounded, p, row, column);
}

// total = (with go_on: +=) the products of so many steps, by add_steps of either:

// Where a step of a row begins: first + row * pitch + step * next.
template <typename T> struct Rows {
    const T *first;
    long pitch, next;
};

// LANES lanes of a tile's sums, from `lane` on. What is made of it is never inlined into a loop over them: compilers turn it inside
// out, and then registers do not suffice.
template <int M, int N, typename Way, typename T>
static inline __attribute__((always_inline)) void sum_products(float *totals, const Rows<float> &x, const Rows<T> &w,
                                                               int steps, bool go_on, int lane) {
    V sum[M * N];
    UNROLLED
    for (int s = 0; s < M * N; s++) sum[s] = go_on ? load<V>(totals + 16 * s + lane) : V{};
    for (int step = 0; step < steps; step++) {
        const float *const x_step = x.first + step * x.next;
        const T *const w_step = w.first + step * w.next;
        if (lane == 0) prefetch_step<N>(w_step, w.pitch);
        UNROLLED
        for (int half = 0; half < 2; half++) {
            V b[N];
            UNROLLED
            for (int j = 0; j < N; j++) b[j] = Way::load_lanes(w_step + j * w.pitch, half, lane);
            UNROLLED
            for (int i = 0; i < M; i++) {
                const V a = load<V>(x_step + i * x.pitch + 16 * half + lane);
                UNROLLED
                for (int j = 0; j < N; j++) sum[i * N + j] += a * b[j];
            }
        }
    }
    UNROLLED
    for (int s = 0; s < M * N; s++) store(totals + 16 * s + lane, sum[s]);
}

// fp32 products in 16 lanes, as many at once as a vector has. Of a step in bf16, the even and the odd elements are 16 lanes each, a
// single operation away from the stored pairs; x has been put into that order.
struct Floats {
    typedef float X;

    // Lanes of the step's even (half 0) or odd elements; in fp32, of its first or second half.
    static inline V load_lanes(const float *step, int half, int lane) { return load<V>(step + 16 * half + lane); }
    static inline V load_lanes(const __nv_bfloat16 *step, int half, int lane) {
        const U pairs = load<U>(step + 2 * lane);
        return half ? (V)(pairs & 0xffff0000u) : (V)(pairs << 16);
    }

    static void spread(float *to, const floatX (&step)[STEP]) {
        for (int half = 0; half < 2; half++)
            for (int lane = 0; lane < 16; lane += LANES) {
                const V v = load_lanes(step, half, lane);
                memcpy(to + 16 * half + lane, &v, sizeof v);
            }
    }

    template <int M, int N>
    static __attribute__((noinline)) void add_lanes(float *totals, const Operands<X> &o, int steps, bool go_on,
                                                    int lane) {
        sum_products<M, N, Floats>(totals, {o.x, o.x_pitch, STEP}, Rows<floatX>{o.w, o.w_pitch, STEP}, steps, go_on,
                                   lane);
    }

    template <int M, int N> static void add_steps(V16 (&total)[M][N], const Operands<X> &o, int steps, bool go_on) {
        for (int lane = 0; lane < 16; lane += LANES) add_lanes<M, N>((float *)total, o, steps, go_on, lane);
    }
};

#ifdef HAS_DOTS

#define TARGET_DOTS __attribute__((target("avx512f,avx512bf16")))

// A step is one vector, and an instruction adds the products of its pairs to 16 sums.
struct Dots {
    typedef __nv_bfloat16 X;

    static void spread(__nv_bfloat16 *to, const __nv_bfloat16 (&step)[STEP]) { memcpy((void *)to, step, sizeof step); }

    template <int M, int N>
    static TARGET_DOTS void add_steps(V16 (&total)[M][N], const Operands<X> &o, int steps, bool go_on) {
        V16 sum[M][N];
        for (int i = 0; i < M; i++)
            for (int j = 0; j < N; j++) sum[i][j] = go_on ? total[i][j] : V16{};
        for (int k = 0; k < steps * STEP; k += STEP) {
            prefetch_step<N>(o.w + k, o.w_pitch);
            __m512bh b[N];
            for (int j = 0; j < N; j++) b[j] = load<__m512bh>(o.w + j * o.w_pitch + k);
            for (int i = 0; i < M; i++) {
                const __m512bh a = load<__m512bh>(o.x + i * o.x_pitch + k);
                for (int j = 0; j < N; j++) sum[i][j] = (V16)_mm512_dpbf16_ps((__m512)sum[i][j], a, b[j]);
            }
        }
        memcpy(total, sum, sizeof sum);
    }
};

#endif

// ---- products

// A buffer that is kept, and grows to the largest that was needed.
struct Buffer {
    void *bytes = nullptr;
    size_t size = 0;

    void *get(const Product &p, size_t wanted) {
        if (wanted > size) {
            free(bytes);
            bytes = aligned_alloc(64, size = wanted);
            if (!bytes) matmul_fail(p, "out of memory for a copy of its operands");
        }
        return bytes;
    }
};

// Copies the step at `from`, of which so many elements are there; the rest are zeros.
template <typename Way> static void spread(typename Way::X *to, const floatX *from, int elements) {
    if (elements >= STEP) return Way::spread(to, *(const floatX(*)[STEP])from);
    floatX step[STEP] = {};
    if (elements > 0) memcpy((void *)step, from, sizeof(floatX) * (size_t)elements);
    Way::spread(to, step);
}

// x's rows in whole steps of Way::X.
template <typename Way> static Operands<typename Way::X> prepare_rows(const Product &p) {
    typedef typename Way::X X;
    static Buffer buffer;
    const long pitch = ((long)p.k + STEP - 1) / STEP * STEP;
    X *rows = (X *)buffer.get(p, sizeof(X) * (size_t)p.m * (size_t)pitch);
    for (int i = 0; i < p.m; i++)
        for (int k = 0; k < p.k; k += STEP) spread<Way>(rows + i * pitch + k, p.a + (long)i * p.k + k, p.k - k);
    return {rows, pitch, p.b, p.k};
}

template <typename Way, int M, int N>
static void tile(const Product &p, const Operands<typename Way::X> &o, int row, int column) {
    const int steps = p.k / STEP;
    V16 sum[M][N];
    Way::add_steps(sum, o, steps, false);
    if (steps * STEP < p.k) {
        Rest<N> rest;
        Way::add_steps(sum, rest.operands(o, p.k, steps * STEP), 1, true);
    }
    store_tile(p, sum, row, column);
}

template <typename Way, int N, int M = ROWS_X>
static void tile_of(int rows, const Product &p, const Operands<typename Way::X> &all, int row, int column) {
    if (rows == M)
        return tile<Way, M, N>(p, {all.x + row * all.x_pitch, all.x_pitch, all.w + column * all.w_pitch, all.w_pitch},
                               row, column);
    if constexpr (M > 1) tile_of<Way, N, M - 1>(rows, p, all, row, column);
}

template <typename Way> static void product(const Product &p) {
    const auto all = prepare_rows<Way>(p);
    const int groups = (p.n + ROWS_W - 1) / ROWS_W;
    const auto take = [&](long begin, long end) {
        for (int column = (int)begin * ROWS_W; column < (int)end * ROWS_W; column += ROWS_W)
            for (int row = 0; row < p.m; row += ROWS_X) { // the weights come from cache from the second time on
                const int rows = p.m - row < ROWS_X ? p.m - row : ROWS_X;
                if (p.n - column >= ROWS_W)
                    tile_of<Way, ROWS_W>(rows, p, all, row, column);
                else
                    for (int rest = column; rest < p.n; rest++) tile_of<Way, 1>(rows, p, all, row, rest);
            }
    };
    if ((long)p.n * p.k > ALONE)
        host_parallel_runs(groups, take);
    else
        take(0, groups);
}

// ---- many rows, with fp32 products: both operands are copied into the order in which tiles of ROWS_X by ROWS_W read them, a
// block of w that stays in a cache for all tiles of x. Each lane of a sum has its products in the order of k, as above.

enum { DEPTH = 24, GROUPS = 8 };    // a block: steps of k, groups of ROWS_W rows of w
enum { BLOCKED_ROWS = 2 * ROWS_X }; // with fewer rows of x the copy of w costs more than it saves

// A group of `of` rows of a matrix with k columns, of which so many are there: steps from `first` on as [steps][of][STEP].
static void copy_group(float *to, const floatX *from, int k, int rows, int of, int first, int steps) {
    for (int step = first; step < first + steps; step++)
        for (int i = 0; i < of; i++, to += STEP)
            spread<Floats>(to, from + (long)i * k + step * STEP, i < rows ? k - step * STEP : 0);
}

static __attribute__((noinline)) void add_block(float *totals, const float *x, const float *w, int steps, bool go_on,
                                                int lane) {
    sum_products<ROWS_X, ROWS_W, Floats>(totals, {x, STEP, ROWS_X * STEP}, Rows<float>{w, STEP, ROWS_W * STEP}, steps,
                                         go_on, lane);
}

static inline int least(int a, int b) { return a < b ? a : b; }

static void store_part(const Product &p, const V16 (&sum)[ROWS_X][ROWS_W], int row, int column) {
    float sums[ROWS_X * ROWS_W];
    const Product whole = {sums, nullptr, nullptr, ROWS_X, ROWS_W, 0, false, true, true, false};
    store_tile(whole, sum, 0, 0);
    for (int i = 0; i < least(ROWS_X, p.m - row); i++)
        for (int j = 0; j < least(ROWS_W, p.n - column); j++) {
            const long at = (long)(row + i) * p.n + column + j;
            if (p.fp32_out)
                ((float *)p.d)[at] = sums[i * ROWS_W + j];
            else
                from_float(((floatX *)p.d)[at], sums[i * ROWS_W + j]);
        }
}

// Columns from `begin` to before `end`, no more than GROUPS groups, of all rows; x as copied.
static void product_of_block(const Product &p, const float *x, int begin, int end) {
    static thread_local Buffer weights, totals;
    typedef V16 Tile[ROWS_X][ROWS_W];
    const int steps = (p.k + STEP - 1) / STEP, tiles = (p.m + ROWS_X - 1) / ROWS_X;
    float *const w = (float *)weights.get(p, sizeof(float) * GROUPS * DEPTH * ROWS_W * STEP);
    Tile *const all = (Tile *)totals.get(p, sizeof(Tile) * (size_t)tiles * GROUPS);
    for (int from = 0; from < steps; from += DEPTH) {
        const int depth = least(DEPTH, steps - from);
        const long size = (long)depth * ROWS_W * STEP; // of a copied group
        for (int column = begin, group = 0; column < end; column += ROWS_W, group++)
            copy_group(w + group * size, p.b + (long)column * p.k, p.k, least(ROWS_W, end - column), ROWS_W, from,
                       depth);
        for (int tile = 0; tile < tiles; tile++)
            for (int column = begin, group = 0; column < end; column += ROWS_W, group++) {
                Tile &sum = all[tile * GROUPS + group];
                const float *rows = x + ((long)tile * steps + from) * ROWS_X * STEP;
                for (int lane = 0; lane < 16; lane += LANES)
                    add_block((float *)sum, rows, w + group * size, depth, from > 0, lane);
                if (from + depth == steps) store_part(p, sum, tile * ROWS_X, column);
            }
    }
}

static void product_in_blocks(const Product &p) {
    static Buffer rows;
    const int steps = (p.k + STEP - 1) / STEP, tiles = (p.m + ROWS_X - 1) / ROWS_X, block = GROUPS * ROWS_W;
    const long size = (long)steps * ROWS_X * STEP; // of a copied group of x
    float *const x = (float *)rows.get(p, sizeof(float) * (size_t)(tiles * size));
    for (int tile = 0; tile < tiles; tile++)
        copy_group(x + tile * size, p.a + (long)tile * ROWS_X * p.k, p.k, least(ROWS_X, p.m - tile * ROWS_X), ROWS_X, 0,
                   steps);
    const int blocks = (p.n + block - 1) / block;
    const auto take = [&](long from, long to) {
        for (int i = (int)from; i < (int)to; i++) product_of_block(p, x, i * block, least(p.n, (i + 1) * block));
    };
    if ((long)p.n * p.k > ALONE)
        host_parallel_runs(blocks, take);
    else
        take(0, blocks);
}

bool is_few_rows(const Product &p) { return p.m <= MOST_ROWS && !p.transpose_a && p.transpose_b && !p.accumulate; }

void few_rows_product(const Product &p, bool use_bf16) {
#ifdef HAS_DOTS
    if (use_bf16 && __builtin_cpu_supports("avx512bf16")) return product<Dots>(p);
#endif
    (void)use_bf16;
    if (p.m < BLOCKED_ROWS) return product<Floats>(p);
    product_in_blocks(p);
}
