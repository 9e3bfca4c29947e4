// Matrix products of the cpu target, by oneDNN (2.6 and later), which computes with one thread: the result is cut into tiles,
// and our own threads take them.
//
// A CPU with bf16 instructions (AVX512_BF16, AMX) multiplies bf16 as it stands, through a oneDNN primitive kept per
// shape. Without them oneDNN's bf16 product is five times slower than its fp32 one, so there the operands are widened:
// each thread widens the part of a and b that its tile needs, a chunk of k at a time, into scratch that stays in its L2
// cache, multiplies in fp32 and rounds the finished tile. Widening bf16 loses nothing, so both ways compute the same sums,
// in another order. Operands in fp32 are copied likewise: rows that lie a power of two apart make oneDNN slow.
//
// Few rows times a weight matrix are a product of our own (matmul_few_rows.h).
#include <omp.h>
#include <oneapi/dnnl/dnnl.hpp>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <array>
#include <unordered_map>

#include "device/matmul.h"
#include "device/matmul_few_rows.h"
#include "device/vec.h"
#include "parallel.h"

void matmul_fail(const Product &p, const char *reason) {
    fprintf(stderr, "llmc: matmul of m=%d n=%d k=%d%s%s: oneDNN: %s\n", p.m, p.n, p.k, p.transpose_a ? " a^T" : "",
            p.transpose_b ? " b^T" : "", reason);
    exit(1);
}

// Keeps oneDNN to the calling thread.
class OneThread {
    int before = omp_get_max_threads();

  public:
    OneThread() { omp_set_num_threads(1); }
    ~OneThread() { omp_set_num_threads(before); }
};

static bool has_isa(dnnl::cpu_isa isa) { return ((int)dnnl::get_effective_cpu_isa() & (int)isa) == (int)isa; }

// The largest size of a tile of the result; its rows are a multiple of `step`, its columns of 16.
struct Limits {
    int rows, columns, step;
};

// With AVX2 the bits of a product are the same for any number of threads, though its tiles depend on it. There, oneDNN's fp32
// product sums an element in one order wherever it stands, but for two things:
// - It packs the operands of products larger than about 520 x 520, and then takes k in other pieces. No tile is so large.
// - It takes SIX rows at once, and where at most three are left over it sums even and odd k apart. That happens at the end of
//   each block of rows, of which the last two are equal, if more than 72 rows are left for them, and the others 48 or 96. So
//   the rows of a tile are a multiple of SIX, and its last 60 to 72 are a product of their own.
// For AVX-512 it packs by rules that a limit of the size does not meet.
enum { SIX = 6, ONE_BLOCK = 72 };
static const bool has_avx512 = has_isa(dnnl::cpu_isa::avx512_core);

// d = a·b + beta·d in fp32, row-major, `lda`, `ldb`, `ldd` elements from one stored row to the next.
static void product_fp32(const Product &p, int m, int n, int k, const float *a, long lda, const float *b, long ldb,
                         float *d, long ldd, bool add) {
    const int first = m > ONE_BLOCK && !has_avx512 ? (m - ONE_BLOCK + 2 * SIX) / (2 * SIX) * (2 * SIX) : m;
    for (int row = 0, rows = first; row < m; row += rows, rows = m - row) {
        const dnnl_status_t status =
            dnnl_sgemm(p.transpose_a ? 'T' : 'N', p.transpose_b ? 'T' : 'N', rows, n, k, 1.0f,
                       a + (p.transpose_a ? row : row * lda), lda, b, ldb, add ? 1.0f : 0.0f, d + row * ldd, ldd);
        if (status != dnnl_success) matmul_fail(p, "sgemm failed");
    }
}

// ---- tiles of the result

enum { TILE_MIN = 64 }; // rows or columns: a smaller tile is not worth a thread

struct Tile {
    int row, column, rows, columns;
};

struct Tiling {
    int rows, columns; // of a tile
    int down, across;  // tiles
};

static int round_up(int size, int step) { return (size + step - 1) / step * step; }

// Pieces of `total`, as many as pieces of at most `most` are needed, about equal.
static int even_piece(int total, int most, int step) {
    const int pieces = (total + most - 1) / most;
    return round_up((total + pieces - 1) / pieces, step);
}

static Tiling tiling_of(int m, int n, const Limits &most) {
    const int rows = even_piece(m, most.rows, most.step), columns = even_piece(n, most.columns, 16);
    return {rows, columns, (m + rows - 1) / rows, (n + columns - 1) / columns};
}

// Tiles as large as allowed, halved until they keep the threads evenly busy.
static Tiling choose_tiling(int m, int n, const Limits &most, int threads) {
    Tiling t = tiling_of(m, n, most);
    for (;;) {
        long tiles = (long)t.down * t.across, rounds = (tiles + threads - 1) / threads;
        if (tiles * 10 >= rounds * threads * 9) return t;
        if (t.rows >= t.columns && t.rows > TILE_MIN)
            t = tiling_of(m, n, {round_up(t.rows / 2, most.step), t.columns, most.step});
        else if (t.columns > TILE_MIN)
            t = tiling_of(m, n, {t.rows, round_up(t.columns / 2, 16), most.step});
        else
            return t;
    }
}

// Where tile i begins in `total` rows or columns. The last is no single one, which oneDNN would multiply as a vector.
static int begin_of(int i, int size, int total, int step) {
    const int begin = i * size;
    if (begin >= total) return total;
    return i > 0 && begin == total - 1 ? begin - step : begin;
}

// Where a tile's rows of a and columns of b begin.
static const floatX *first_a(const Product &p, Tile t) { return p.a + (p.transpose_a ? t.row : (long)t.row * p.k); }
static const floatX *first_b(const Product &p, Tile t) {
    return p.b + (p.transpose_b ? (long)t.column * p.k : t.column);
}

static void for_each_tile(const Product &p, const Limits &most, void (*compute)(const Product &, Tile)) {
    const Tiling t = choose_tiling(p.m, p.n, most, host_threads());
    host_parallel((long)t.down * t.across, [&](long i) {
        const OneThread alone;
        const int down = (int)(i / t.across), across = (int)(i % t.across);
        const int row = begin_of(down, t.rows, p.m, most.step), column = begin_of(across, t.columns, p.n, 16);
        compute(p, {row, column, begin_of(down + 1, t.rows, p.m, most.step) - row,
                    begin_of(across + 1, t.columns, p.n, 16) - column});
    });
}

// ---- in fp32, and without bf16 instructions: tiles whose operands are copied, and widened where they are bf16

// The largest tile, and how much of k is copied at once: 1.3 MB of scratch a thread, which an L2 holds.
enum { WIDE_M = 258, WIDE_N = 512, WIDE_K = 256 };
enum { PAD = 16 }; // rows of a power of two of bytes would fall into the same cache sets

struct Scratch {
    alignas(64) float a[WIDE_M * WIDE_K + PAD * (WIDE_M > WIDE_K ? WIDE_M : WIDE_K)];
    alignas(64) float b[WIDE_K * WIDE_N + PAD * WIDE_N];
    alignas(64) float d[WIDE_M * (WIDE_N + PAD)];
};

static Scratch *scratch_of_thread() {
    static thread_local Scratch *scratch = nullptr;
    if (!scratch) scratch = (Scratch *)aligned_alloc(64, sizeof(Scratch));
    if (!scratch) {
        fprintf(stderr, "llmc: matmul: out of memory for %zu bytes of scratch\n", sizeof(Scratch));
        exit(1);
    }
    return scratch;
}

static void widen(float *to, long to_pitch, const floatX *from, long from_pitch, int rows, int columns) {
    for (int row = 0; row < rows; row++) {
        const floatX *source = from + row * from_pitch;
        float *target = to + row * to_pitch;
        for (int i = 0; i < columns; i++) target[i] = to_float(source[i]);
    }
}

static void round_to_floatX(floatX *to, long to_pitch, const float *from, long from_pitch, int rows, int columns) {
    for (int row = 0; row < rows; row++) {
        const float *source = from + row * from_pitch;
        floatX *target = to + row * to_pitch;
        for (int i = 0; i < columns; i++) from_float(target[i], source[i]);
    }
}

static void compute_widened(const Product &p, Tile t) {
    Scratch *scratch = scratch_of_thread();
    float *d = p.fp32_out ? (float *)p.d + (long)t.row * p.n + t.column : scratch->d;
    const long ldd = p.fp32_out ? p.n : WIDE_N + PAD;
    for (int start = 0; start < p.k; start += WIDE_K) {
        const int depth = p.k - start < WIDE_K ? p.k - start : WIDE_K;
        const long lda = (p.transpose_a ? t.rows : depth) + PAD, ldb = (p.transpose_b ? depth : t.columns) + PAD;
        if (p.transpose_a)
            widen(scratch->a, lda, first_a(p, t) + (long)start * p.m, p.m, depth, t.rows);
        else
            widen(scratch->a, lda, first_a(p, t) + start, p.k, t.rows, depth);
        if (p.transpose_b)
            widen(scratch->b, ldb, first_b(p, t) + start, p.k, t.columns, depth);
        else
            widen(scratch->b, ldb, first_b(p, t) + (long)start * p.n, p.n, depth, t.columns);
        product_fp32(p, t.rows, t.columns, depth, scratch->a, lda, scratch->b, ldb, d, ldd, p.accumulate || start > 0);
    }
    if (!p.fp32_out) round_to_floatX((floatX *)p.d + (long)t.row * p.n + t.column, p.n, d, ldd, t.rows, t.columns);
}

static void product_widened(const Product &p) {
    for_each_tile(p, has_avx512 ? Limits{256, WIDE_N, 16} : Limits{WIDE_M, WIDE_N, SIX}, compute_widened);
}

#ifdef LLMC_PRECISION_fp32

static bool multiplies_bf16() { return false; }
static void product(const Product &p) { product_widened(p); }

#else

// ---- with bf16 instructions: a primitive for each shape

struct Primitive {
    dnnl::matmul matmul;
    std::unordered_map<int, dnnl::memory> arguments;
};

static dnnl::engine &engine() {
    static dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
    return cpu;
}

static dnnl::memory::desc describe(int rows, int columns, long pitch, bool transposed, bool fp32) {
    using dnnl::memory;
    return memory::desc({rows, columns}, fp32 ? memory::data_type::f32 : memory::data_type::bf16,
                        transposed ? memory::dims{1, pitch} : memory::dims{pitch, 1});
}

// Elements from one stored row to the next.
static long pitch_a(const Product &p) { return p.transpose_a ? p.m : p.k; }
static long pitch_b(const Product &p) { return p.transpose_b ? p.k : p.n; }

static Primitive make_primitive(const Product &p, Tile t) {
    const dnnl::memory::desc a = describe(t.rows, p.k, pitch_a(p), p.transpose_a, false),
                             b = describe(p.k, t.columns, pitch_b(p), p.transpose_b, false),
                             d = describe(t.rows, t.columns, p.n, false, p.fp32_out);
    dnnl::primitive_attr attributes;
    dnnl::post_ops add;
    if (p.accumulate) add.append_sum(1.0f);
    attributes.set_post_ops(add);
#if DNNL_VERSION_MAJOR >= 3
    dnnl::matmul::primitive_desc description(engine(), a, b, d, attributes);
#else
    dnnl::matmul::primitive_desc description(dnnl::matmul::desc(a, b, d), attributes, engine());
#endif
    return {dnnl::matmul(description),
            {{DNNL_ARG_SRC, dnnl::memory(a, engine(), nullptr)},
             {DNNL_ARG_WEIGHTS, dnnl::memory(b, engine(), nullptr)},
             {DNNL_ARG_DST, dnnl::memory(d, engine(), nullptr)}}};
}

// What a primitive is made for: the product's m, n and k, the tile's rows and columns, and flags.
typedef std::array<int, 6> Shape;

struct ShapeHash {
    size_t operator()(const Shape &s) const {
        size_t h = 0;
        for (int next : s) h = h * 1000003 + (size_t)next;
        return h;
    }
};

static void compute_bf16(const Product &p, Tile t) {
    static thread_local std::unordered_map<Shape, Primitive, ShapeHash> cache;
    static thread_local dnnl::stream stream(engine());
    try {
        const int flags = p.transpose_a | p.transpose_b << 1 | p.fp32_out << 2 | p.accumulate << 3;
        const Shape shape = {p.m, p.n, p.k, t.rows, t.columns, flags};
        auto found = cache.find(shape);
        if (found == cache.end()) found = cache.emplace(shape, make_primitive(p, t)).first;
        Primitive &primitive = found->second;
        const size_t at = ((size_t)t.row * (size_t)p.n + (size_t)t.column) * (p.fp32_out ? sizeof(float) : sizeof *p.a);
        primitive.arguments.at(DNNL_ARG_SRC).set_data_handle((void *)first_a(p, t));
        primitive.arguments.at(DNNL_ARG_WEIGHTS).set_data_handle((void *)first_b(p, t));
        primitive.arguments.at(DNNL_ARG_DST).set_data_handle((char *)p.d + at);
        primitive.matmul.execute(stream, primitive.arguments);
        stream.wait();
    } catch (const dnnl::error &error) {
        matmul_fail(p, error.what());
    }
}

static bool cpu_has_bf16() { return has_isa(dnnl::cpu_isa::avx512_core_bf16); }

// oneDNN 2.6's AMX product of fewer than 32 rows ends in an illegal instruction for some odd k, however a and b are stored
// (seen: m 8 to 24, n 112, k 63). Gradients of adapters have such products: their rank is the number of rows.
static bool is_broken(const Product &p) { return p.k % 2; }

static int use_bf16 = -1; // not asked yet

// For tests: multiplies as CPUs with bf16 instructions do (1), as the others do (0), or as this CPU can (-1).
extern "C" void matmul_use_bf16(int choice) { use_bf16 = choice; }

static bool multiplies_bf16() {
    if (use_bf16 < 0) use_bf16 = cpu_has_bf16();
    return use_bf16;
}

static void product(const Product &p) {
    if (multiplies_bf16() && !is_broken(p))
        for_each_tile(p, {512, 2048, 16}, compute_bf16);
    else
        product_widened(p);
}

#endif

extern "C" size_t matmul_prepare(void) { return multiplies_bf16() ? 0 : sizeof(Scratch) * (size_t)host_threads(); }

extern "C" void matmul(void *d, MatmulOut out, const floatX *a, const floatX *b, int m, int n, int k, bool transpose_a,
                       bool transpose_b, bool accumulate, cudaStream_t stream) {
    const bool fp32_out = out == MATMUL_OUT_FP32 || sizeof(floatX) == 4;
    const Product p = {d, a, b, m, n, k, transpose_a, transpose_b, fp32_out, accumulate};
    if (accumulate && !fp32_out) matmul_fail(p, "accumulates only into fp32");
    if (m <= 0 || n <= 0 || k <= 0) matmul_fail(p, "dimensions must be positive");
    host_queue(stream, [=] {
        if (is_few_rows(p))
            few_rows_product(p, multiplies_bf16());
        else
            product(p);
    });
}

extern "C" void matmul_same_rows(void *d, MatmulOut out, const floatX *a, const floatX *b, int m, int most, int n,
                                 int k, cudaStream_t stream) {
    (void)most;
    const Product p = {d, a, b, m, n, k, false, true, out == MATMUL_OUT_FP32, false};
    host_queue(stream, [=] { few_rows_product(p, multiplies_bf16()); });
}

extern "C" void matmul_take_workspace(cudaStream_t) {} // it is a thread's

extern "C" int matmul_use_algorithms(const char *path, bool times, Error *err) {
    (void)path, (void)times;
    return fail_input(err,
                      "--matmul-algorithms: cuBLASLt's algorithms are for the cuda target, this program is the cpu's");
}
