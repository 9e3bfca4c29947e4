// Operands and results of products of small matrices, spread over the registers of a warp. Within 16 columns each is what
// mma.sync takes or gives (device/ptx/mma_sync.h).
#ifndef LLMC_DEVICE_FRAGMENTS_H
#define LLMC_DEVICE_FRAGMENTS_H

#include "device/ptx/convert.h"
#include "device/reduce.h"
#include "device/shared_tile.h"
#include "device/vec.h"

// 16 x N. Lane l holds rows g = l/4 (h = 0) and g + 8 (h = 1), in blocks of 8W columns:
// c[b][h][j * W + i] = C[g + 8h][8 (b W + i) + 2 (l%4) + j], j = 0, 1. A row's values are contiguous for the CPU's vectors.
template <int N> struct alignas(64) Acc {
    static constexpr int W = N / 8 < 8 ? N / 8 : 8;
    static constexpr int BLOCKS = N / 8 / W;
    static_assert(N == BLOCKS * W * 8 && W % 2 == 0, "columns are 16, 32 or a multiple of 64");
    float c[BLOCKS][2][2 * W];

    // column of c[b][h][e] within the tile, for this lane
    static __host__ __device__ constexpr int column(int lane, int b, int e) {
        return 8 * (b * W + e % W) + 2 * (lane % 4) + e / W;
    }
};

// 16 x K. bf16: a[h][i] = elements [g + 8h][8i + 2 (l%4) + {0, 1}].
template <typename T, int K> struct FragA { uint32_t a[2][K / 8]; };
// fp32: a[h][j * K/8 + i] = element [g + 8h][8i + 2 (l%4) + j].
template <int K> struct FragA<float, K> { float a[2][K / 4]; };

// What a thread holds of a warp's result [WARP_ROWS x COLUMNS]: ROWS rows, in BLOCKS parts of ELEMENTS values each. row_of(r): which row of the result it
// is; column(b, e): which column. Steps on rows are written with it, so that they serve every form of a result.
template <typename Result> struct Held;

template <int M, int N>
struct Held<Acc<N>[M]> {
    enum { WARP_ROWS = 16 * M, COLUMNS = N };
    enum { ROWS = 2 * M, BLOCKS = Acc<N>::BLOCKS, ELEMENTS = 2 * Acc<N>::W };
    typedef float Row[ELEMENTS], Sum; // Sum: of this lane's columns

    static __device__ __forceinline__ Row &row(Acc<N>(&acc)[M], int r, int b) { return acc[r / 2].c[b][r % 2]; }
    static __device__ __forceinline__ int row_of(int r) { return 8 * r + lane_id() / 4; }
    static __device__ __forceinline__ int column(int b, int e) { return Acc<N>::column(lane_id(), b, e); }
    // In a list of all columns, lane by lane, the first of this lane's; and the column that stands at place i.
    static __device__ __forceinline__ int first_listed() { return lane_id() % 4 * ELEMENTS; }
    static __device__ __forceinline__ int listed(int i) { return Acc<N>::column(i / ELEMENTS, 0, i % ELEMENTS); }

    // Of this lane's columns.
    static __device__ __forceinline__ void row_maxima(float(&y)[ROWS], Acc<N>(&acc)[M]) {
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const Row &values = row(acc, r, 0);
            y[r] = values[0];
#pragma unroll
            for (int e = 1; e < ELEMENTS; e++) y[r] = max(y[r], values[e]);
        }
    }
    // sum = sum * correction + the row's values: columns of equal parity pairwise, then both.
    static __device__ __forceinline__ void add_row(Sum & sum, float correction, const Row &row) {
        typedef float Half[ELEMENTS / 2];
        sum = sum * correction + (sum_vec((const Half &)row) + sum_vec((const Half &)row[ELEMENTS / 2]));
    }
    // Over the lanes that share the rows.
    static __device__ __forceinline__ void share_max(float(&x)[ROWS], LLMC_SITE) { quad_max(x, LLMC_SITE_ARGS); }
    static __device__ __forceinline__ void share_sums(float(&total)[ROWS], const Sum(&sums)[ROWS], LLMC_SITE) {
#pragma unroll
        for (int r = 0; r < ROWS; r++) total[r] = sums[r];
        quad_sum(total, LLMC_SITE_ARGS);
    }
};

template <typename Result> __device__ __forceinline__ void scale_row(Result &acc, int r, float factor) {
    using Of = Held<Result>;
#pragma unroll
    for (int b = 0; b < Of::BLOCKS; b++) {
        typename Of::Row &row = Of::row(acc, r, b);
        EACH_ELEMENT
        for (int e = 0; e < Of::ELEMENTS; e++) row[e] *= factor;
    }
}

template <int N> __device__ __forceinline__ void acc_zero(Acc<N> &acc) {
#pragma unroll
    for (int b = 0; b < Acc<N>::BLOCKS; b++)
#pragma unroll
        for (int h = 0; h < 2; h++) EACH_ELEMENT
    for (int e = 0; e < 2 * Acc<N>::W; e++) acc.c[b][h][e] = 0.0f;
}

template <int N, int M> __device__ __forceinline__ void zero_all(Acc<N> (&acc)[M]) {
#pragma unroll
    for (int m = 0; m < M; m++) acc_zero(acc[m]);
}

// The values of one row of a block, c[b][h], as pairs of neighbouring columns.
template <int W> __device__ __forceinline__ void pack_row(uint32_t (&pairs)[W], const float (&row)[2 * W]) {
#ifdef LLMC_TARGET_CPU
    typename HostVectors<2 * W>::Half halves;
    typename HostVectors<W>::Half even, odd;
    host_float_to_bf16<2 * W>((__nv_bfloat16 *)&halves, row);
    __builtin_memcpy(&even, &halves, sizeof even);
    __builtin_memcpy(&odd, (char *)&halves + sizeof even, sizeof odd);
    typedef typename HostVectors<W>::Full Pairs;
    Pairs both = __builtin_convertvector(even, Pairs) | __builtin_convertvector(odd, Pairs) << 16;
    __builtin_memcpy(pairs, &both, sizeof both);
#else
#pragma unroll
    for (int i = 0; i < W; i++) pairs[i] = pack_bf16(row[i], row[W + i]);
#endif
}

// The accumulator of one product as the left operand of the next: no exchange between lanes.
template <int N> __device__ __forceinline__ void frag_from_acc(FragA<__nv_bfloat16, N> &frag, const Acc<N> &acc) {
    constexpr int W = Acc<N>::W;
#pragma unroll
    for (int b = 0; b < Acc<N>::BLOCKS; b++)
#pragma unroll
        for (int h = 0; h < 2; h++) pack_row(*(uint32_t(*)[W])(frag.a[h] + b * W), acc.c[b][h]);
}
template <int N> __device__ __forceinline__ void frag_from_acc(FragA<float, N> &frag, const Acc<N> &acc) {
    constexpr int W = Acc<N>::W;
#pragma unroll
    for (int b = 0; b < Acc<N>::BLOCKS; b++)
#pragma unroll
        for (int h = 0; h < 2; h++) EACH_ELEMENT
    for (int e = 0; e < 2 * W; e++) frag.a[h][e / W * (N / 8) + b * W + e % W] = acc.c[b][h][e];
}

template <typename T, int M, int N>
__device__ __forceinline__ void left_from_acc(FragA<T, N> (&frag)[M], const Acc<N> (&acc)[M]) {
#pragma unroll
    for (int m = 0; m < M; m++) frag_from_acc(frag[m], acc[m]);
}

// Writes the accumulator into rows row0.. and columns 0..N of a tile, rounded to T.
template <int N, int COLS>
__device__ __forceinline__ void store_acc(SharedTile<__nv_bfloat16, COLS> tile, int row0, const Acc<N> &acc) {
    constexpr int W = Acc<N>::W;
    int lane = lane_id();
#pragma unroll
    for (int b = 0; b < Acc<N>::BLOCKS; b++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            uint32_t packed[W];
            pack_row(packed, acc.c[b][h]);
#pragma unroll
            for (int i = 0; i < W; i++)
                access_as<uint32_t>(tile.at(row0 + 8 * h + lane / 4, Acc<N>::column(lane, b, i))) = packed[i];
        }
}
template <int N, int COLS>
__device__ __forceinline__ void store_acc(SharedTile<float, COLS> tile, int row0, const Acc<N> &acc) {
    int lane = lane_id();
#pragma unroll
    for (int b = 0; b < Acc<N>::BLOCKS; b++)
#pragma unroll
        for (int h = 0; h < 2; h++) EACH_ELEMENT
    for (int e = 0; e < 2 * Acc<N>::W; e++)
        *tile.at(row0 + 8 * h + lane / 4, Acc<N>::column(lane, b, e)) = acc.c[b][h][e];
}

template <typename T, int COLS, int M, int N>
__device__ __forceinline__ void store_acc(SharedTile<T, COLS> tile, int row0, const Acc<N> (&acc)[M]) {
#pragma unroll
    for (int m = 0; m < M; m++) store_acc(tile, row0 + 16 * m, acc[m]);
}

#endif
