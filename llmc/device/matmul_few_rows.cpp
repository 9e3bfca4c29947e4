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
template <int N> static inline __attribute__((always_inline)) void prefetch_step(const floatX *w, long pitch) {
    for (int j = N; j < 2 * N; j++)
        for (int byte = 0; byte < STEP * (int)sizeof(floatX); byte += 64)
            __builtin_prefetch((const void *)((uintptr_t)w + sizeof(floatX) * (size_t)(j * pitch) + (size_t)byte));
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

    template <int M, int N> static void add_steps(V16 (&total)[M][N], const Operands<X> &o, int steps, bool go_on) {
        for (int lane = 0; lane < 16; lane += LANES) {
            V sum[M][N];
            for (int i = 0; i < M; i++)
                for (int j = 0; j < N; j++) sum[i][j] = go_on ? load<V>((const float *)&total[i][j] + lane) : V{};
            for (int k = 0; k < steps * STEP; k += STEP) {
                if (lane == 0) prefetch_step<N>(o.w + k, o.w_pitch);
                for (int half = 0; half < 2; half++) {
                    V b[N];
                    for (int j = 0; j < N; j++) b[j] = load_lanes(o.w + j * o.w_pitch + k, half, lane);
                    for (int i = 0; i < M; i++) {
                        const V a = load<V>(o.x + i * o.x_pitch + k + 16 * half + lane);
                        for (int j = 0; j < N; j++) sum[i][j] += a * b[j];
                    }
                }
            }
            for (int i = 0; i < M; i++)
                for (int j = 0; j < N; j++) memcpy((float *)&total[i][j] + lane, &sum[i][j], sizeof(V));
        }
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

// x's rows in whole steps of Way::X.
template <typename Way> static Operands<typename Way::X> prepare_rows(const Product &p) {
    typedef typename Way::X X;
    static X *rows = nullptr;
    static size_t size = 0; // grows to the largest that was needed
    const long pitch = ((long)p.k + STEP - 1) / STEP * STEP;
    const size_t wanted = sizeof(X) * (size_t)p.m * (size_t)pitch;
    if (wanted > size) {
        free(rows);
        rows = (X *)aligned_alloc(64, size = wanted);
    }
    if (!rows) matmul_fail(p, "out of memory for the rows");
    for (int i = 0; i < p.m; i++)
        for (int k = 0; k < p.k; k += STEP) {
            floatX step[STEP] = {};
            memcpy((void *)step, p.a + (long)i * p.k + k, sizeof(floatX) * (size_t)(p.k - k < STEP ? p.k - k : STEP));
            Way::spread(rows + i * pitch + k, step);
        }
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

bool is_few_rows(const Product &p) { return p.m <= MOST_ROWS && !p.transpose_a && p.transpose_b && !p.accumulate; }

void few_rows_product(const Product &p, bool use_bf16) {
#ifdef HAS_DOTS
    if (use_bf16 && __builtin_cpu_supports("avx512bf16")) return product<Dots>(p);
#endif
    (void)use_bf16;
    product<Floats>(p);
}
