// Products for matrix_cpu.h. An operand is first packed so that the innermost loop reads it one vector, or one element,
// after the other; bf16 is packed in pairs of neighbours along k, as vdpbf16ps takes them.
#include "device/matrix_cpu.h"

#include <string.h>

namespace {

// ---- one step along k, of as many columns as a register holds: sum += a · b

typedef float Sums __attribute__((vector_size(4 * HOST_LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * HOST_LANES)));

struct Floats {
    typedef float Element;
    typedef Sums Vector;
    static __forceinline__ void add(Sums &sum, const Sums &a, const Sums &b) { sum += a * b; }
};

// Two bf16 of neighbouring k in a word, the first in its lower half.
struct WidenedPairs {
    typedef uint32_t Element;
    typedef Words Vector;
    static __forceinline__ void add(Sums &sum, const Words &a, const Words &b) {
        sum += (Sums)(a << 16) * (Sums)(b << 16);
        sum += (Sums)(a & 0xffff0000u) * (Sums)(b & 0xffff0000u);
    }
};

#ifdef __AVX512F__
struct Bf16Pairs : WidenedPairs {
    static __forceinline__ void add(Sums &sum, const Words &a, const Words &b) {
        asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    }
};
const bool has_bf16 = __builtin_cpu_supports("avx512bf16");
#endif

// Vectors of C that stay in registers, and how many of them lie in a row: a square as far as possible, which loads least.
#if defined(__AVX512F__)
enum { SUMS = 16, ACROSS = 2 };
#elif defined(__aarch64__)
enum { SUMS = 16, ACROSS = 4 };
#else
enum { SUMS = 8, ACROSS = 2 };
#endif

// ---- C from packed operands

// Element (row, k) of A stands at data[row * row_step + k * k_step].
template <typename Element> struct PackedA {
    const Element *data;
    int row_step, k_step;
};

// SUMS / V rows and V vectors of columns of C. b: rows of the packed B, b_stride apart.
template <typename Step, int V, typename Element = typename Step::Element>
__forceinline__ void multiply_block(HostResult c, PackedA<Element> a, const Element *b, int b_stride, int depth) {
    constexpr int R = SUMS / V;
    Sums sum[R][V];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++)
            if (c.add)
                memcpy(&sum[r][v], c.data + r * c.stride + HOST_LANES * v, sizeof(Sums));
            else
                sum[r][v] = Sums{};
    for (int k = 0; k < depth; k++) {
        typename Step::Vector columns[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) // one by one: gcc copies an array through the stack, in pieces that are waited for
            memcpy(&columns[v], b + (size_t)k * b_stride + HOST_LANES * v, sizeof columns[v]);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            const typename Step::Vector row = a.data[r * a.row_step + k * a.k_step] - typename Step::Vector{};
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) Step::add(sum[r][v], row, columns[v]);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) memcpy(c.data + r * c.stride + HOST_LANES * v, &sum[r][v], sizeof(Sums));
}

template <typename Step, int V, typename Element = typename Step::Element>
void multiply_columns(HostResult c, PackedA<Element> a, const Element *b, int b_stride, int rows, int n, int depth) {
    for (int col = 0; col < n; col += HOST_LANES * V)
        for (int row = 0; row < rows; row += SUMS / V)
            multiply_block<Step, V>({c.data + row * c.stride + col, c.stride, c.add},
                                    {a.data + row * a.row_step, a.row_step, a.k_step}, b + col, b_stride, depth);
}

template <typename Step, typename Element = typename Step::Element>
void multiply_packed(HostResult c, PackedA<Element> a, const Element *b, int b_stride, int rows, int n, int depth) {
    if (n % (HOST_LANES * ACROSS) == 0)
        multiply_columns<Step, ACROSS>(c, a, b, b_stride, rows, n, depth);
    else
        multiply_columns<Step, 1>(c, a, b, b_stride, rows, n, depth);
}

// ---- packing

// No larger than needed, as stacks of fibers are small.
#define STACK_ARRAY(type, count) (type *)__builtin_alloca_with_align(sizeof(type) * (size_t)(count), 512)

// to [words][16] = the transpose of 16 rows of `words` words, a multiple of 4, from_stride words apart. to_stride: of `to`.
void transpose_16_rows(uint32_t *to, int to_stride, const uint32_t *from, int from_stride, int words) {
    typedef uint32_t Chunk __attribute__((vector_size(16)));
    for (int word = 0; word < words; word += 4) {
        HostU16 z[4]; // words 4L to 4L + 3 of z[g]: four words of row 4L + g
        for (int g = 0; g < 4; g++)
            for (int l = 0; l < 4; l++) memcpy((Chunk *)&z[g] + l, from + (4 * l + g) * from_stride + word, 16);
#define LOW_WORDS(x, y) __builtin_shufflevector(x, y, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29)
#define HIGH_WORDS(x, y) __builtin_shufflevector(x, y, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31)
#define LOW_HALVES(x, y) __builtin_shufflevector(x, y, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
#define HIGH_HALVES(x, y) __builtin_shufflevector(x, y, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31)
        const HostU16 t0 = LOW_WORDS(z[0], z[1]), t1 = HIGH_WORDS(z[0], z[1]);
        const HostU16 t2 = LOW_WORDS(z[2], z[3]), t3 = HIGH_WORDS(z[2], z[3]);
        const HostU16 columns[4] = {LOW_HALVES(t0, t2), HIGH_HALVES(t0, t2), LOW_HALVES(t1, t3), HIGH_HALVES(t1, t3)};
#undef LOW_WORDS
#undef HIGH_WORDS
#undef LOW_HALVES
#undef HIGH_HALVES
        for (int g = 0; g < 4; g++) memcpy(to + (word + g) * to_stride, &columns[g], 64);
    }
}

// to [words][n] = the transpose of from [n][words]
void transpose(uint32_t *to, const uint32_t *from, int from_stride, int n, int words) {
    for (int i = 0; i < n; i += 16) transpose_16_rows(to + i, n, from + (size_t)i * from_stride, from_stride, words);
}

// to [k/2][n] = pairs of neighbouring rows of from [k][n]
void pair_rows(uint32_t *to, const __nv_bfloat16 *from, int from_stride, int k, int n) {
    typedef uint16_t Halves __attribute__((vector_size(32)));
    for (int row = 0; row < k; row += 2, from += 2 * from_stride)
        for (int col = 0; col < n; col += 16, to += 16) {
            Halves low, high;
            memcpy(&low, from + col, sizeof low);
            memcpy(&high, from + from_stride + col, sizeof high);
            const HostU16 pairs = __builtin_convertvector(low, HostU16) | __builtin_convertvector(high, HostU16) << 16;
            memcpy(to, &pairs, 64);
        }
}

} // namespace

void host_multiply(HostResult c, HostMatrix<__nv_bfloat16> a, HostMatrix<__nv_bfloat16> b, int rows, int n, int k) {
    uint32_t *b_pairs = STACK_ARRAY(uint32_t, n * k / 2);
    PackedA<uint32_t> packed = {(const uint32_t *)a.data, a.stride / 2, 1};
    if (a.transposed) {
        uint32_t *a_pairs = STACK_ARRAY(uint32_t, rows * k / 2);
        pair_rows(a_pairs, a.data, a.stride, k, rows);
        packed = {a_pairs, 1, rows};
    }
    if (b.transposed)
        transpose(b_pairs, (const uint32_t *)b.data, b.stride / 2, n, k / 2);
    else
        pair_rows(b_pairs, b.data, b.stride, k, n);
#ifdef __AVX512F__
    if (has_bf16) return multiply_packed<Bf16Pairs>(c, packed, b_pairs, n, rows, n, k / 2);
#endif
    multiply_packed<WidenedPairs>(c, packed, b_pairs, n, rows, n, k / 2);
}

void host_multiply(HostResult c, HostMatrix<float> a, HostMatrix<float> b, int rows, int n, int k) {
    const PackedA<float> packed = {a.data, a.transposed ? 1 : a.stride, a.transposed ? a.stride : 1};
    if (!b.transposed) return multiply_packed<Floats>(c, packed, b.data, b.stride, rows, n, k);
    float *columns = STACK_ARRAY(float, n *k);
    transpose((uint32_t *)columns, (const uint32_t *)b.data, b.stride, n, k);
    multiply_packed<Floats>(c, packed, columns, n, rows, n, k);
}

void host_round(__nv_bfloat16 *to, const float *from, int count) {
#ifdef __AVX512F__
    if (has_bf16) {
        typedef uint16_t Halves __attribute__((vector_size(32)));
        for (int i = 0; i < count; i += 16) {
            HostV16 values;
            Halves rounded;
            memcpy(&values, from + i, 64);
            asm("vcvtneps2bf16 %1, %0" : "=v"(rounded) : "v"(values));
            memcpy(to + i, &rounded, 32);
        }
        return;
    }
#endif
    for (int i = 0; i < count; i += 16) host_float_to_bf16<16>(to + i, from + i);
}
