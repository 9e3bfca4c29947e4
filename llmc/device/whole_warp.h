// The CPU's own form of what device/mma.h speaks of: a warp is one thread, which holds operands and results whole, as rows in
// memory, in place of 32 lanes that each hold a part. The results have the bits of the lanes'.
#ifndef LLMC_DEVICE_WHOLE_WARP_H
#define LLMC_DEVICE_WHOLE_WARP_H

#include <string.h>

#include "device/fragments.h"
#include "device/matrix_cpu.h"

template <int M, int N> struct WholeAcc { alignas(64) float c[16 * M][N]; };
template <typename T, int M, int K> struct WholeA { alignas(64) T a[16 * M][K]; };

// Rows one after the other.
template <typename T, int COLS> struct PlainTile {
    static constexpr int CHUNK = 16 / (int)sizeof(T), CHUNKS = COLS / CHUNK;
    T *data;
    T *at(int row, int col) const { return data + row * COLS + col; }
};

struct WholeWarp {
    enum { LANES = 1 };
    template <int M, int N> using Acc = WholeAcc<M, N>;
    template <typename T, int M, int K> using Left = WholeA<T, M, K>;
    template <typename T, int COLS> using Tile = PlainTile<T, COLS>;
};

// ---- rows

// The columns of a row that are equal modulo 16, halves of the row combined with each other.
template <typename Op, int N> __forceinline__ void host_fold(HostV16 &folded, const float (&row)[N]) {
    HostV16 v[N / 16];
    memcpy(v, row, sizeof v);
#pragma GCC unroll 4
    for (int half = N / 32; half > 0; half /= 2)
#pragma GCC unroll 4
        for (int i = 0; i < half; i++) v[i] = Op::combine(v[i], v[i + half]);
    folded = v[0];
}

template <int M, int N> struct Held<WholeAcc<M, N>> {
    enum { WARP_ROWS = 16 * M, COLUMNS = N, ROWS = WARP_ROWS, BLOCKS = 1, ELEMENTS = N };
    typedef float Row[N];
    typedef float Four __attribute__((vector_size(16)));
    typedef Four Sum; // of each lane's columns, as Acc has them: then additions keep the lanes' order

    static Row &row(WholeAcc<M, N> &acc, int r, int) { return acc.c[r]; }
    static int row_of(int r) { return r; }
    static int column(int, int e) { return e; }
    static int first_listed() { return 0; }
    static int listed(int i) { return i; }

    static __forceinline__ void row_maxima(float (&y)[ROWS], WholeAcc<M, N> &acc) {
        for (int row = 0; row < ROWS; row += 16) {
            HostV16 v[16];
#pragma GCC unroll 16
            for (int r = 0; r < 16; r++) host_fold<MaxOp>(v[r], acc.c[row + r]);
                // Two vectors become one: of two lanes, D apart, each keeps the larger value of one of the two rows.
#define MERGE(D, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p)                                                       \
    _Pragma("GCC unroll 8") for (int r = 0; r < D; r++) v[r] =                                                         \
        MaxOp::combine(__builtin_shufflevector(v[r], v[r + D], a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p),        \
                       __builtin_shufflevector(v[r], v[r + D], a + D, b + D, c + D, d + D, e + D, f + D, g + D, h + D, \
                                               i + D, j + D, k + D, l + D, m + D, n + D, o + D, p + D))
            MERGE(8, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
            MERGE(4, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27);
            MERGE(2, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
            MERGE(1, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30);
#undef MERGE
            memcpy(y + row, &v[0], sizeof v[0]);
        }
    }
    static __forceinline__ void add_row(Sum &sum, float correction, const Row &row) {
        HostV16 v;
        host_fold<AddOp>(v, row);
        v += __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15);
        sum =
            sum * correction + (__builtin_shufflevector(v, v, 0, 2, 4, 6) + __builtin_shufflevector(v, v, 1, 3, 5, 7));
    }
    static void share_max(float (&)[ROWS]) {}
    static void share_sums(float (&total)[ROWS], const Sum (&sums)[ROWS]) {
        for (int r = 0; r < ROWS; r++) total[r] = (sums[r][0] + sums[r][2]) + (sums[r][1] + sums[r][3]);
    }
};

template <int M, int N> inline void zero_all(WholeAcc<M, N> &acc) { memset(&acc, 0, sizeof acc); }

// ---- operands

template <int M, int N> inline void left_from_acc(WholeA<__nv_bfloat16, M, N> &to, const WholeAcc<M, N> &acc) {
    host_round(to.a[0], acc.c[0], 16 * M * N);
}
template <int M, int N> inline void left_from_acc(WholeA<float, M, N> &to, const WholeAcc<M, N> &acc) {
    memcpy(to.a, acc.c, sizeof to.a);
}
template <typename T, int COLS, int M, int N>
inline void store_acc(PlainTile<T, COLS> tile, int row0, const WholeAcc<M, N> &acc) {
    for (int r = 0; r < 16 * M; r++)
        for (int col = 0; col < N; col += 8) store_vec(tile.at(row0 + r, col), (const float(&)[8])acc.c[r][col]);
}

// As of SharedTile, by the block's only thread.
template <int ROWS, int THREADS, typename T, int COLS>
inline void load_tile_async(PlainTile<T, COLS> tile, const T *from, int stride, int valid_rows, int valid_cols) {
    const int valid = valid_cols < COLS ? valid_cols : COLS;
    for (int row = 0; row < ROWS; row++, from += stride) {
        T *to = tile.at(row, 0);
        if (row >= valid_rows) {
            memset(to, 0, sizeof(T) * COLS);
        } else if (valid == COLS) {
            memcpy(to, from, sizeof(T) * COLS);
        } else {
            memcpy(to, from, sizeof(T) * (size_t)valid);
            memset(to + valid, 0, sizeof(T) * (size_t)(COLS - valid));
        }
    }
}

// ---- products

template <typename T, int M, int N, int COLS>
inline void product_rows(WholeAcc<M, N> &c, PlainTile<T, COLS> a, int row0, PlainTile<T, COLS> b) {
    host_multiply({c.c[0], N, false}, HostMatrix<T>{a.at(row0, 0), COLS, false}, HostMatrix<T>{b.data, COLS, true},
                  16 * M, N, COLS);
}
template <typename T, int M, int N, int K, int COLS>
inline void multiply_nn(WholeAcc<M, N> &c, const WholeA<T, M, K> &a, PlainTile<T, COLS> b, int col0) {
    host_multiply({c.c[0], N, true}, HostMatrix<T>{a.a[0], K, false}, HostMatrix<T>{b.data + col0, COLS, false}, 16 * M,
                  N, K);
}
// C [K x n] += A^T · B, with B's columns from col0 on
template <typename T, int M, int K, int COLS>
inline void multiply_tn(float *c, int n, const WholeA<T, M, K> &a, PlainTile<T, COLS> b, int col0) {
    host_multiply({c, n, true}, HostMatrix<T>{a.a[0], K, true}, HostMatrix<T>{b.data + col0, COLS, false}, K, n,
                  16 * M);
}

#endif
