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

template <int N> __device__ __forceinline__ void acc_zero(Acc<N> &acc) {
#pragma unroll
    for (int b = 0; b < Acc<N>::BLOCKS; b++)
#pragma unroll
        for (int h = 0; h < 2; h++) EACH_ELEMENT
    for (int e = 0; e < 2 * Acc<N>::W; e++) acc.c[b][h][e] = 0.0f;
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

#endif
