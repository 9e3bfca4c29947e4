// Products of fragments as the GPU's sequence of instructions: ldmatrix and mma.sync in bf16, shuffles and multiplications in
// fp32. It runs on the CPU too, one rendezvous an instruction, so that a test can compare it with device/mma_cpu.h.
#ifndef LLMC_DEVICE_MMA_INSTRUCTIONS_H
#define LLMC_DEVICE_MMA_INSTRUCTIONS_H

#include "device/fragments.h"
#include "device/ptx/ldmatrix.h"
#include "device/ptx/mma_sync.h"

namespace by_instruction {

// Where lane l points for ldmatrix_x4: matrices 0 to 3 are rows 0-7 and 8-15 of columns 0-7, then of columns 8-15. Without
// transposition this gives a FragA; with it, the two column tiles of a B that stands as [k][n].
__device__ __forceinline__ int rows_first_row(int lane) { return lane % 16; }
__device__ __forceinline__ int rows_first_col(int lane) { return lane / 16 * 8; }
// Matrices 0 to 3 are columns 0-7 and 8-15 of rows 0-7, then of rows 8-15: the two column tiles of a B that stands as
// [n][k].
__device__ __forceinline__ int cols_first_row(int lane) { return lane % 8 + lane / 16 * 8; }
__device__ __forceinline__ int cols_first_col(int lane) { return lane / 8 % 2 * 8; }

// Columns `to` to `to` + 15 of a fragment, from where a lane's place in the tile is, so many rows and columns on.
template <int K, typename Place>
__device__ __forceinline__ void load_step(FragA<__nv_bfloat16, K> &frag, int to, Place place, int rows, int cols) {
    uint32_t r[4];
    ldmatrix_x4(r, place.at(rows, cols));
    frag.a[0][to / 8] = r[0];
    frag.a[1][to / 8] = r[1];
    frag.a[0][to / 8 + 1] = r[2];
    frag.a[1][to / 8 + 1] = r[3];
}

// Rows row0 to row0 + 15, columns 0 to K - 1.
template <int K, int COLS>
__device__ __forceinline__ void load_a(FragA<__nv_bfloat16, K> &frag, SharedTile<__nv_bfloat16, COLS> tile, int row0) {
    const int lane = lane_id();
    const auto place = tile.place(row0 + rows_first_row(lane), rows_first_col(lane));
#pragma unroll
    for (int k = 0; k < K; k += 16) load_step(frag, k, place, 0, k);
}

// Columns col0 to col0 + 15, rows 0 to K - 1: transposed, so that they become A's rows.
template <int K, int COLS>
__device__ __forceinline__ void load_a_transposed(FragA<__nv_bfloat16, K> &frag, SharedTile<__nv_bfloat16, COLS> tile,
                                                  int col0) {
    const int lane = lane_id();
    const auto place = tile.place(cols_first_row(lane), col0 + cols_first_col(lane));
#pragma unroll
    for (int k = 0; k < K; k += 16) {
        uint32_t r[4];
        ldmatrix_x4_trans(r, place.at(k, 0));
        frag.a[0][k / 8] = r[0];
        frag.a[1][k / 8] = r[1];
        frag.a[0][k / 8 + 1] = r[2];
        frag.a[1][k / 8 + 1] = r[3];
    }
}

// Columns n to n + 7 of C += A · B over 16 of k; b is B's fragment.
template <int N, int K>
__device__ __forceinline__ void mma_tile(Acc<N> &acc, const FragA<__nv_bfloat16, K> &frag, int n, int k, uint32_t b0,
                                         uint32_t b1) {
    constexpr int W = Acc<N>::W;
    float(&c)[2][2 * W] = acc.c[n / 8 / W];
    int i = n / 8 % W;
    mma_m16n8k16(c[0][i], c[0][W + i], c[1][i], c[1][W + i], frag.a[0][k / 8], frag.a[1][k / 8], frag.a[0][k / 8 + 1],
                 frag.a[1][k / 8 + 1], b0, b1);
}

template <bool BIsRowMajor, int COLS>
__device__ __forceinline__ auto place_of_b(SharedTile<__nv_bfloat16, COLS> b, int col0) {
    const int lane = lane_id();
    return BIsRowMajor ? b.place(rows_first_row(lane), col0 + rows_first_col(lane))
                       : b.place(cols_first_row(lane), cols_first_col(lane));
}

// C += A · B over the 16 of k from k on, which are those from frag_k on in the fragments.
template <bool BIsRowMajor, int M, int N, int K, typename Place>
__device__ __forceinline__ void multiply_step(Acc<N> (&acc)[M], const FragA<__nv_bfloat16, K> (&frag)[M], int frag_k,
                                              Place b, int k) {
#pragma unroll
    for (int n = 0; n < N; n += 16) {
        uint32_t r[4];
        if (BIsRowMajor)
            ldmatrix_x4_trans(r, b.at(k, n));
        else
            ldmatrix_x4(r, b.at(n, k));
#pragma unroll
        for (int m = 0; m < M; m++) {
            mma_tile(acc[m], frag[m], n, frag_k, r[0], r[1]);
            mma_tile(acc[m], frag[m], n + 8, frag_k, r[2], r[3]);
        }
    }
}

template <bool BIsRowMajor, int M, int N, int K, int COLS>
__device__ __forceinline__ void multiply(Acc<N> (&acc)[M], const FragA<__nv_bfloat16, K> (&frag)[M],
                                         SharedTile<__nv_bfloat16, COLS> b, int col0) {
    const auto place = place_of_b<BIsRowMajor>(b, col0);
#pragma unroll
    for (int k = 0; k < K; k += 16) multiply_step<BIsRowMajor>(acc, frag, k, place, k);
}

// C += A · B^T, A being the 16 M rows from row0 of a tile, of which 16 columns are in registers at a time.
template <int M, int N, int COLS>
__device__ __forceinline__ void multiply_rows(Acc<N> (&acc)[M], SharedTile<__nv_bfloat16, COLS> a, int row0,
                                              SharedTile<__nv_bfloat16, COLS> b) {
    const int lane = lane_id();
    const auto a_place = a.place(row0 + rows_first_row(lane), rows_first_col(lane));
    const auto b_place = place_of_b<false>(b, 0);
#pragma unroll
    for (int k = 0; k < COLS; k += 16) {
        FragA<__nv_bfloat16, 16> frag[M];
#pragma unroll
        for (int m = 0; m < M; m++) load_step(frag[m], 0, a_place, 16 * m, k);
        multiply_step<false>(acc, frag, 0, b_place, k);
    }
}

template <int K, int COLS>
__device__ __forceinline__ void load_a(FragA<float, K> &frag, SharedTile<float, COLS> tile, int row0) {
    int lane = lane_id();
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int i = 0; i < K / 8; i++)
#pragma unroll
            for (int j = 0; j < 2; j++)
                frag.a[h][j * (K / 8) + i] = *tile.at(row0 + 8 * h + lane / 4, 8 * i + 2 * (lane % 4) + j);
}

template <int K, int COLS>
__device__ __forceinline__ void load_a_transposed(FragA<float, K> &frag, SharedTile<float, COLS> tile, int col0) {
    int lane = lane_id();
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int i = 0; i < K / 8; i++)
#pragma unroll
            for (int j = 0; j < 2; j++)
                frag.a[h][j * (K / 8) + i] = *tile.at(8 * i + 2 * (lane % 4) + j, col0 + 8 * h + lane / 4);
}

// The lanes of a group of four hold a row of A between them: each k is passed round by a shuffle.
template <bool BIsRowMajor, int M, int N, int K, int COLS>
__device__ __forceinline__ void multiply(Acc<N> (&acc)[M], const FragA<float, K> (&frag)[M], SharedTile<float, COLS> b,
                                         int col0) {
    int lane = lane_id();
#pragma unroll
    for (int part = 0; part < K / 4; part++) // part = j * K/8 + i
#pragma unroll 1
        for (int q = 0; q < 4; q++) {
            int k = 8 * (part % (K / 8)) + 2 * q + part / (K / 8);
            float a[M][2];
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int h = 0; h < 2; h++) a[m][h] = __shfl_sync(0xffffffffu, frag[m].a[h][part], q, 4);
#pragma unroll
            for (int block = 0; block < Acc<N>::BLOCKS; block++) EACH_ELEMENT
            for (int e = 0; e < 2 * Acc<N>::W; e++) {
                int n = Acc<N>::column(lane, block, e);
                float value = BIsRowMajor ? *b.at(k, col0 + n) : *b.at(n, k);
#pragma unroll
                for (int m = 0; m < M; m++) {
                    acc[m].c[block][0][e] += a[m][0] * value;
                    acc[m].c[block][1][e] += a[m][1] * value;
                }
            }
        }
}

// Four of k at a time, which are one access of a row of A and of a row of B.
template <int M, int N, int COLS>
__device__ __forceinline__ void multiply_rows(Acc<N> (&acc)[M], SharedTile<float, COLS> a, int row0,
                                            SharedTile<float, COLS> b) {
    const int lane = lane_id();
#pragma unroll 1
    for (int k = 0; k < COLS; k += 4) {
        float left[2 * M][4];
#pragma unroll
        for (int r = 0; r < 2 * M; r++) load_vec(left[r], a.at(row0 + 8 * r + lane / 4, k));
#pragma unroll
        for (int block = 0; block < Acc<N>::BLOCKS; block++)
#pragma unroll
            for (int e = 0; e < 2 * Acc<N>::W; e++) {
                float right[4];
                load_vec(right, b.at(Acc<N>::column(lane, block, e), k));
#pragma unroll
                for (int r = 0; r < 2 * M; r++)
#pragma unroll
                    for (int i = 0; i < 4; i++) acc[r / 2].c[block][r % 2][e] += left[r][i] * right[i];
            }
    }
}

} // namespace by_instruction

#endif
