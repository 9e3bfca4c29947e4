// Products of small matrices by one warp, the vocabulary of the attention kernels.
//
//   SharedTile<T, COLS>   rows of COLS elements in shared memory, 16-byte chunks swizzled
//   FragA<T, K>           16 x K left operand, spread over the lanes of a warp
//   Acc<N>                16 x N fp32 accumulator, spread over the lanes of a warp
//   load_a(a, tile, row)  A = rows row to row + 15 of a tile; load_a_transposed(a, tile, col): A^T = its columns
//   multiply_nt(c, a, b)  C[16 x N] += A[16 x K] · B^T, B stands as [n][k]   (for an array of
//   multiply_nn(c, a, b)  C[16 x N] += A[16 x K] · B,   B stands as [k][n]    row tiles at once)
//   product_rows(c, a, row, b)   C[16 x N] = A · B^T, A is 16 rows (for an array, 16 each) of a tile, which takes no registers
//
// With T = bf16 a product is ldmatrix and mma.sync on a GPU (device/mma_instructions.h); with T = float (the exact build) it
// is fp32 arithmetic. On the CPU a product is one rendezvous of the warp, whatever its size, worked off by vector code
// (device/mma_cpu.h).
//
// Kernels name the types by way of the form that their warps have: LaneWarp, or on the CPU WholeWarp (device/whole_warp.h).
#ifndef LLMC_DEVICE_MMA_H
#define LLMC_DEVICE_MMA_H

#ifdef LLMC_TARGET_CPU
#include "device/mma_cpu.h"
#include "device/whole_warp.h"
#else
#include "device/mma_instructions.h"

template <typename T, int K, int COLS>
__device__ __forceinline__ void load_a(FragA<T, K> &frag, SharedTile<T, COLS> tile, int row0) {
    by_instruction::load_a(frag, tile, row0);
}
template <typename T, int K, int COLS>
__device__ __forceinline__ void load_a_transposed(FragA<T, K> &frag, SharedTile<T, COLS> tile, int col0) {
    by_instruction::load_a_transposed(frag, tile, col0);
}
template <int M, int N, int K, typename T, int COLS>
__device__ __forceinline__ void multiply_nt(Acc<N> (&c)[M], const FragA<T, K> (&a)[M], SharedTile<T, COLS> b, int = 0) {
    by_instruction::multiply<false>(c, a, b, 0);
}
template <int M, int N, int K, typename T, int COLS>
__device__ __forceinline__ void multiply_nn(Acc<N> (&c)[M], const FragA<T, K> (&a)[M], SharedTile<T, COLS> b,
                                            int col0) {
    by_instruction::multiply<true>(c, a, b, col0);
}
template <int M, int N, typename T, int COLS>
__device__ __forceinline__ void product_rows(Acc<N> (&c)[M], SharedTile<T, COLS> a, int row0, SharedTile<T, COLS> b) {
    zero_all(c);
    by_instruction::multiply_rows(c, a, row0, b);
}
#endif

struct LaneWarp {
    enum { LANES = 32 };
    template <int M, int N> using Acc = ::Acc<N>[M];
    template <typename T, int M, int K> using Left = FragA<T, K>[M];
    template <typename T, int COLS> using Tile = SharedTile<T, COLS>;
};

#endif
