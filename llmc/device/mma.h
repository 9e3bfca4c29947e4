// Products of small matrices by one warp, the vocabulary of the attention kernels.
//
//   SharedTile<T, COLS>   rows of COLS elements in shared memory, 16-byte chunks swizzled
//   FragA<T, K>           16 x K left operand, spread over the lanes of a warp
//   Acc<N>                16 x N fp32 accumulator, spread over the lanes of a warp
//   load_a(a, tile, row)  A = rows row to row + 15 of a tile
//   multiply_nt(c, a, b)  C[16 x N] += A[16 x K] · B^T, B stands as [n][k]   (for an array of
//   multiply_nn(c, a, b)  C[16 x N] += A[16 x K] · B,   B stands as [k][n]    row tiles at once)
//
// With T = bf16 a product is ldmatrix and mma.sync on a GPU (device/mma_instructions.h); with T = float (the exact build) it
// is fp32 arithmetic. On the CPU a product is one rendezvous of the warp, whatever its size, worked off by vector code
// (device/mma_cpu.h). Two products of the same shape may be given to one call, which saves the CPU a rendezvous.
#ifndef LLMC_DEVICE_MMA_H
#define LLMC_DEVICE_MMA_H

#ifdef LLMC_TARGET_CPU
#include "device/mma_cpu.h"
#else
#include "device/mma_instructions.h"

// Sum and maximum of the values that this lane holds of a row, pairwise: x[i] with x[i + N/2] first.
template <int N> __device__ __forceinline__ float fold_sum(const float (&x)[N]) { return sum_vec(x); }
template <int N> __device__ __forceinline__ float fold_max(const float (&x)[N]) {
    float y = x[0];
#pragma unroll
    for (int i = 1; i < N; i++) y = fmaxf(y, x[i]);
    return y;
}

template <typename T, int K, int COLS>
__device__ __forceinline__ void load_a(FragA<T, K> &frag, SharedTile<T, COLS> tile, int row0) {
    by_instruction::load_a(frag, tile, row0);
}
template <int M, int N, int K, typename T, int COLS>
__device__ __forceinline__ void multiply_nt(Acc<N> (&c)[M], const FragA<T, K> (&a)[M], SharedTile<T, COLS> b) {
    by_instruction::multiply<false>(c, a, b, 0);
}
template <int M, int N, int K, typename T, int COLS>
__device__ __forceinline__ void multiply_nn(Acc<N> (&c)[M], const FragA<T, K> (&a)[M], SharedTile<T, COLS> b,
                                            int col0) {
    by_instruction::multiply<true>(c, a, b, col0);
}
template <int M, int N, int K, typename T, int COLS>
__device__ __forceinline__ void multiply_nt(Acc<N> (&c0)[M], const FragA<T, K> (&a0)[M], SharedTile<T, COLS> b0,
                                            Acc<N> (&c1)[M], const FragA<T, K> (&a1)[M], SharedTile<T, COLS> b1) {
    by_instruction::multiply<false>(c0, a0, b0, 0);
    by_instruction::multiply<false>(c1, a1, b1, 0);
}
template <int M, int N, int K, typename T, int COLS>
__device__ __forceinline__ void multiply_nn(Acc<N> (&c0)[M], const FragA<T, K> (&a0)[M], SharedTile<T, COLS> b0,
                                            Acc<N> (&c1)[M], const FragA<T, K> (&a1)[M], SharedTile<T, COLS> b1,
                                            int col0) {
    by_instruction::multiply<true>(c0, a0, b0, col0);
    by_instruction::multiply<true>(c1, a1, b1, col0);
}
#endif
#endif
