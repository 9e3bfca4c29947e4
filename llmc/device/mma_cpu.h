// The CPU's side of device/mma.h: a product of fragments with a shared tile as one rendezvous of the warp. The last lane to
// arrive gathers A from the lanes, unpacks B from the tile and multiplies in place in the lanes' accumulators.
//
// A panel is 16 columns of C that stand contiguously in the lanes' memory: a vector. Its columns are those of one lane of a
// group of four (Acc::W = 8), of two (W = 4) or of all four (W = 2). k runs in the order in which a lane holds A:
// kk = q * K/4 + j * K/8 + i stands for k = 8i + 2q + j.
#ifndef LLMC_DEVICE_MMA_CPU_H
#define LLMC_DEVICE_MMA_CPU_H

#include <string.h>

#include "device/mma_instructions.h"

typedef float HostV16 __attribute__((vector_size(64)));
typedef float HostV8 __attribute__((vector_size(32)));
typedef uint32_t HostU16 __attribute__((vector_size(64)));
typedef uint32_t HostU8 __attribute__((vector_size(32)));
typedef uint32_t HostU4 __attribute__((vector_size(16)));

// Accumulators of so many rows fit the vector registers.
#ifdef __AVX512F__
enum { HOST_ROWS = 16 };
#else
enum { HOST_ROWS = 4 };
#endif

template <typename V> inline V host_load(const void *from) {
    V v;
    memcpy(&v, from, sizeof v);
    return v;
}

template <int N> struct HostPanel {
    static constexpr int W = Acc<N>::W;
    static constexpr int LANES = 8 / W; // lanes of a group whose columns make a panel
    static constexpr int PANELS = N / 16;
    static constexpr int A_BLOCK = 4 / LANES; // panels a block of Acc
    int block, lane0;                         // lane0: first lane (0 to 3) of the group

    explicit HostPanel(int panel) : block(panel / A_BLOCK), lane0(panel % A_BLOCK * LANES) {}
    int column(int i) const { return Acc<N>::column(lane0 + i / (2 * W), block, i % (2 * W)); }

    // The 16 values of row `row` of the accumulator.
    float *values(Acc<N> *const *acc, int row, int piece) const {
        return acc[row % 8 * 4 + lane0 + piece]->c[block][row / 8];
    }
    HostV16 load(Acc<N> *const *acc, int row) const {
        if constexpr (LANES == 1) return host_load<HostV16>(values(acc, row, 0));
        if constexpr (LANES == 2)
            return __builtin_shufflevector(host_load<HostV8>(values(acc, row, 0)),
                                           host_load<HostV8>(values(acc, row, 1)), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11,
                                           12, 13, 14, 15);
        HostV16 v;
        for (int piece = 0; piece < LANES; piece++) memcpy((char *)&v + piece * 8 * W, values(acc, row, piece), 8 * W);
        return v;
    }
    void store(Acc<N> *const *acc, int row, const HostV16 &v) const {
        for (int piece = 0; piece < LANES; piece++)
            memcpy(values(acc, row, piece), (const char *)&v + piece * 8 * W, 8 * W);
    }
};

// ---- A: from the lanes to rows of floats

template <int K> inline void host_unpack_a(float (&rows)[16][K], const FragA<__nv_bfloat16, K> &frag, int lane) {
    for (int h = 0; h < 2; h++) {
        float *to = rows[lane / 4 + 8 * h] + lane % 4 * (K / 4);
        for (int i = 0; i < K / 8; i++) to[i] = low_bf16(frag.a[h][i]);
        for (int i = 0; i < K / 8; i++) to[K / 8 + i] = high_bf16(frag.a[h][i]);
    }
}
template <int K> inline void host_unpack_a(float (&rows)[16][K], const FragA<float, K> &frag, int lane) {
    for (int h = 0; h < 2; h++) memcpy(rows[lane / 4 + 8 * h] + lane % 4 * (K / 4), frag.a[h], sizeof frag.a[h]);
}

// ---- B: a panel from the tile to 16 floats for each kk

template <int K> constexpr int host_place_of_k(int k) { return k / 2 % 4 * (K / 4) + k % 2 * (K / 8) + k / 8; }

// Element by element: any type and shape.
template <bool BIsRowMajor, int N, int K, typename T, int COLS>
inline void host_unpack_b_simple(float (&to)[K][16], SharedTile<T, COLS> b, int col0, HostPanel<N> panel) {
    for (int k = 0; k < K; k++)
        for (int i = 0; i < 16; i++)
            to[host_place_of_k<K>(k)][i] =
                to_float(BIsRowMajor ? *b.at(k, col0 + panel.column(i)) : *b.at(panel.column(i), k));
}

// B stands as [n][k]: 16 rows by 8 columns of bf16 at a time, transposed as 32-bit pairs.
template <int N, int K, int COLS>
inline void host_unpack_b_columns(float (&to)[K][16], SharedTile<__nv_bfloat16, COLS> b, HostPanel<N> panel) {
    int rows[16];
    for (int i = 0; i < 16; i++) rows[i] = panel.column(i);
    for (int chunk = 0; chunk < K / 8; chunk++) {
        HostU16 z[4]; // 128-bit lane L of z[g]: four pairs of row 4L + g
        for (int g = 0; g < 4; g++) {
            HostU4 r[4];
            for (int l = 0; l < 4; l++) r[l] = host_load<HostU4>(b.at(rows[4 * l + g], 8 * chunk));
            HostU8 low = __builtin_shufflevector(r[0], r[1], 0, 1, 2, 3, 4, 5, 6, 7);
            HostU8 high = __builtin_shufflevector(r[2], r[3], 0, 1, 2, 3, 4, 5, 6, 7);
            z[g] = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        }
#define LOW_PAIRS(x, y) __builtin_shufflevector(x, y, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29)
#define HIGH_PAIRS(x, y) __builtin_shufflevector(x, y, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31)
#define LOW_HALVES(x, y) __builtin_shufflevector(x, y, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
#define HIGH_HALVES(x, y) __builtin_shufflevector(x, y, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31)
        HostU16 t0 = LOW_PAIRS(z[0], z[1]), t1 = HIGH_PAIRS(z[0], z[1]);
        HostU16 t2 = LOW_PAIRS(z[2], z[3]), t3 = HIGH_PAIRS(z[2], z[3]);
        HostU16 pairs[4] = {LOW_HALVES(t0, t2), HIGH_HALVES(t0, t2), LOW_HALVES(t1, t3), HIGH_HALVES(t1, t3)};
#undef LOW_PAIRS
#undef HIGH_PAIRS
#undef LOW_HALVES
#undef HIGH_HALVES
        for (int q = 0; q < 4; q++) {
            HostU16 even = pairs[q] << 16, odd = pairs[q] & 0xffff0000u;
            memcpy(to[q * (K / 4) + chunk], &even, 64);
            memcpy(to[q * (K / 4) + K / 8 + chunk], &odd, 64);
        }
    }
}

// B stands as [k][n]: one permutation of a row's pairs (of 64 or 32 columns) collects the panel's columns;
// the even ones are moved to the upper half of the word.
template <int N, int K, int COLS>
inline void host_unpack_b_rows(float (&to)[K][16], SharedTile<__nv_bfloat16, COLS> b, int col0, HostPanel<N> panel) {
    constexpr int W = Acc<N>::W;
    HostU16 order[8], shift; // by the row's swizzle
    for (int i = 0; i < 16; i++) {
        int q = panel.lane0 + i / (2 * W), j = i % (2 * W) / W, n = i % W;
        for (int s = 0; s < 8; s++) order[s][i] = (uint32_t)((n ^ (s & (W - 1))) * 4 + q);
        shift[i] = j ? 0 : 16;
    }
    for (int k = 0; k < K; k++) {
        const __nv_bfloat16 *row = b.data + k * COLS + col0 + panel.block * 64;
        HostU16 low = host_load<HostU16>(row), high = W == 8 ? host_load<HostU16>(row + 32) : low;
        HostU16 picked = __builtin_shuffle(low, high, order[b.swizzle(k)]);
        HostU16 values = (picked << shift) & 0xffff0000u;
        memcpy(to[host_place_of_k<K>(k)], &values, 64);
    }
}

template <bool BIsRowMajor, int N, int K, typename T, int COLS>
inline void host_unpack_b(float (&to)[K][16], SharedTile<T, COLS> b, int col0, HostPanel<N> panel) {
    constexpr bool bf16 = sizeof(T) == 2;
    constexpr bool whole_rows = (Acc<N>::W == 8 && COLS >= 64) || (Acc<N>::W == 4 && COLS == 32);
    if constexpr (bf16 && !BIsRowMajor)
        host_unpack_b_columns<N, K>(to, b, panel);
    else if constexpr (bf16 && whole_rows)
        host_unpack_b_rows<N, K>(to, b, col0, panel);
    else
        host_unpack_b_simple<BIsRowMajor>(to, b, col0, panel);
}

// ---- C

template <int N, int K>
inline void host_multiply_panel(Acc<N> *const *acc, const float (&a)[16][K], const float (&b)[K][16],
                                HostPanel<N> panel) {
    for (int row0 = 0; row0 < 16; row0 += HOST_ROWS) {
        HostV16 sum[HOST_ROWS];
#pragma GCC unroll 16
        for (int r = 0; r < HOST_ROWS; r++) sum[r] = panel.load(acc, row0 + r);
#pragma GCC unroll 1
        for (int kk = 0; kk < K; kk++) {
            HostV16 values = host_load<HostV16>(b[kk]);
#pragma GCC unroll 16
            for (int r = 0; r < HOST_ROWS; r++) sum[r] += a[row0 + r][kk] * values;
        }
#pragma GCC unroll 16
        for (int r = 0; r < HOST_ROWS; r++) panel.store(acc, row0 + r, sum[r]);
    }
}

// What a lane brings: accumulators and left operands of P products that are done in one rendezvous.
template <int P, int N, int K, typename T> struct HostProducts {
    Acc<N> *c[P];
    const FragA<T, K> *a[P];
};

// Not inlined: its arrays would make the stack frame of every lane larger.
template <bool BIsRowMajor, int M, int P, int N, int K, typename T, int COLS>
__attribute__((noinline)) void host_multiply_all(void **lanes, int product, SharedTile<T, COLS> b, int col0) {
    alignas(64) float rows[M][16][K];
    Acc<N> *acc[M][32];
    for (int lane = 0; lane < 32; lane++)
        for (int m = 0; m < M; m++) {
            const auto *brought = (HostProducts<P, N, K, T> *)lanes[lane];
            host_unpack_a(rows[m], brought->a[product][m], lane);
            acc[m][lane] = brought->c[product] + m;
        }
    for (int p = 0; p < HostPanel<N>::PANELS; p++) {
        alignas(64) float columns[K][16];
        host_unpack_b<BIsRowMajor>(columns, b, col0, HostPanel<N>(p));
        for (int m = 0; m < M; m++) host_multiply_panel(acc[m], rows[m], columns, HostPanel<N>(p));
    }
}

template <bool BIsRowMajor, int M, int P, int N, int K, typename T, int COLS>
inline void host_multiply(HostProducts<P, N, K, T> products, const SharedTile<T, COLS> (&b)[P], int col0,
                          const char *file, int line) {
    for (int p = 0; p < P; p++) host_check_aligned(b[p].data, 16, "ldmatrix reads");
    host_warp_rendezvous(
        &products,
        [&b, col0](void **lanes) {
            for (int p = 0; p < P; p++) host_multiply_all<BIsRowMajor, M, P, N, K>(lanes, p, b[p], col0);
        },
        file, line);
}

// ---- what kernels call

// C[16 x N] += A[16 x K] · B^T for M row tiles; B is rows 0 to N - 1 and columns 0 to K - 1 of the tile.
template <int M, int N, int K, typename T, int COLS>
inline void multiply_nt(Acc<N> (&c)[M], const FragA<T, K> (&a)[M], SharedTile<T, COLS> b, LLMC_SITE) {
    host_multiply<false, M>(HostProducts<1, N, K, T>{{c}, {a}}, {b}, 0, LLMC_SITE_ARGS);
}
// C[16 x N] += A[16 x K] · B for M row tiles; B is rows 0 to K - 1 and columns col0 to col0 + N - 1 of the
// tile.
template <int M, int N, int K, typename T, int COLS>
inline void multiply_nn(Acc<N> (&c)[M], const FragA<T, K> (&a)[M], SharedTile<T, COLS> b, int col0, LLMC_SITE) {
    host_multiply<true, M>(HostProducts<1, N, K, T>{{c}, {a}}, {b}, col0, LLMC_SITE_ARGS);
}
// Two products of the same shape, one after the other.
template <int M, int N, int K, typename T, int COLS>
inline void multiply_nt(Acc<N> (&c0)[M], const FragA<T, K> (&a0)[M], SharedTile<T, COLS> b0, Acc<N> (&c1)[M],
                        const FragA<T, K> (&a1)[M], SharedTile<T, COLS> b1, LLMC_SITE) {
    host_multiply<false, M>(HostProducts<2, N, K, T>{{c0, c1}, {a0, a1}}, {b0, b1}, 0, LLMC_SITE_ARGS);
}
template <int M, int N, int K, typename T, int COLS>
inline void multiply_nn(Acc<N> (&c0)[M], const FragA<T, K> (&a0)[M], SharedTile<T, COLS> b0, Acc<N> (&c1)[M],
                        const FragA<T, K> (&a1)[M], SharedTile<T, COLS> b1, int col0, LLMC_SITE) {
    host_multiply<true, M>(HostProducts<2, N, K, T>{{c0, c1}, {a0, a1}}, {b0, b1}, col0, LLMC_SITE_ARGS);
}

// Sum and maximum of the values that this lane holds of a row, pairwise: x[i] with x[i + N/2] first.
typedef float HostV4 __attribute__((vector_size(16)));
inline HostV8 host_low(HostV16 v) { return __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7); }
inline HostV8 host_high(HostV16 v) { return __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15); }
inline HostV4 host_low(HostV8 v) { return __builtin_shufflevector(v, v, 0, 1, 2, 3); }
inline HostV4 host_high(HostV8 v) { return __builtin_shufflevector(v, v, 4, 5, 6, 7); }
template <typename Op, typename V> __attribute__((always_inline)) inline float host_fold(V v) {
    if constexpr (sizeof(V) == 16) {
        V w = Op::combine(v, __builtin_shufflevector(v, v, 2, 3, 2, 3));
        w = Op::combine(w, __builtin_shufflevector(w, w, 1, 1, 1, 1));
        return w[0];
    } else {
        return host_fold<Op>(Op::combine(host_low(v), host_high(v)));
    }
}
template <typename Op, int N> __attribute__((always_inline)) inline float host_fold_row(const float (&x)[N]) {
    if constexpr (N == 16)
        return host_fold<Op>(host_load<HostV16>(x));
    else if constexpr (N == 8)
        return host_fold<Op>(host_load<HostV8>(x));
    else
        return host_fold<Op>(host_load<HostV4>(x));
}
template <int N> inline float fold_sum(const float (&x)[N]) { return host_fold_row<AddOp>(x); }
template <int N> inline float fold_max(const float (&x)[N]) { return host_fold_row<MaxOp>(x); }

// A lane's own elements, read directly: where ldmatrix brings them is what FragA says.
template <int K, int COLS>
inline void load_a(FragA<__nv_bfloat16, K> &frag, SharedTile<__nv_bfloat16, COLS> tile, int row0) {
    int lane = lane_id();
    host_check_aligned(tile.data, 16, "ldmatrix reads");
    for (int h = 0; h < 2; h++) {
        int row = row0 + 8 * h + lane / 4;
        for (int i = 0; i < K / 8; i++) memcpy(&frag.a[h][i], tile.at(row, 8 * i + 2 * (lane % 4)), 4);
    }
}
template <int K, int COLS> inline void load_a(FragA<float, K> &frag, SharedTile<float, COLS> tile, int row0) {
    by_instruction::load_a(frag, tile, row0);
}

#endif
