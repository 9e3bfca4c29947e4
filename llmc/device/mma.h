// Tiles in shared memory and products of register fragments with them, the vocabulary of the attention
// kernels.
//
//   SharedTile<T, COLS>   rows of COLS elements in shared memory, 16-byte chunks swizzled
//   FragA<T, K>           16 x K left operand, spread over the lanes of a warp
//   Acc<N>                16 x N fp32 accumulator, spread over the lanes of a warp
//   multiply_nt(c, a, b)  C[16 x N] += A[16 x K] · B^T, B stands as [n][k]   (for an array of
//   multiply_nn(c, a, b)  C[16 x N] += A[16 x K] · B,   B stands as [k][n]    row tiles at once)
//
// With T = bf16 a product is ldmatrix and mma.sync on a GPU; with T = float (the exact build) it is fp32
// arithmetic. Two products of the same shape may be given to one call, which saves the CPU a rendezvous. On
// the CPU a product is one rendezvous of the warp, whatever its size, worked off by vector code
// (host/multiply.h). The namespace by_instruction holds the GPU's sequence of instructions; it runs on the
// host too, one rendezvous an instruction, so that a test can compare it with the fast one.
#ifndef LLMC_DEVICE_MMA_H
#define LLMC_DEVICE_MMA_H

#include "device/ptx.h"
#include "device/vec.h"

// A warp may work on more rows at once than a GPU's registers could hold: so on the CPU, where fragments lie
// in memory and each step of a lane has its fixed cost. Not while a seed shuffles the order of threads, nor
// under ThreadSanitizer: then blocks are as on a GPU, so that what is checked is the exchange between its
// warps; the results have the same bits.
#ifdef LLMC_TARGET_CPU
constexpr bool HAS_WIDE_WARPS = true;
#ifdef __SANITIZE_THREAD__
inline bool wide_warps() { return false; }
#else
inline bool wide_warps() { return host_seed() == 0; }
#endif
#else
constexpr bool HAS_WIDE_WARPS = false;
inline bool wide_warps() { return false; }
#endif

// ---- shared tiles

// Rows of COLS elements (a power of two; 64 bytes a row at least). The 16-byte chunk c of row r stands at
// place c ^ swizzle(r), so that eight consecutive rows of one chunk, as ldmatrix reads them, lie in eight
// different bank groups.
template <typename T, int COLS> struct SharedTile {
    static constexpr int CHUNK = 16 / (int)sizeof(T); // elements a chunk
    static constexpr int CHUNKS = COLS / CHUNK;       // chunks a row
    static_assert((COLS & (COLS - 1)) == 0 && CHUNKS >= 4, "a row is a power of two of elements and at least 64 bytes");

    T *data;

    static __host__ __device__ constexpr int swizzle(int row) { return CHUNKS >= 8 ? row & 7 : row >> 1 & 3; }
    // col is the first element of a chunk, or any element
    static __host__ __device__ constexpr int offset(int row, int col) {
        return row * COLS + ((col / CHUNK ^ swizzle(row)) * CHUNK) + col % CHUNK;
    }
    __device__ __forceinline__ T *at(int row, int col) const { return data + offset(row, col); }
};

#ifdef LLMC_TARGET_CPU
// The same as load_tile_async by one thread: a row's address and limits are worked out once.
template <int ROWS, typename T, int COLS>
inline void host_copy_tile(SharedTile<T, COLS> tile, const T *from, size_t stride, int valid_rows, int valid_cols) {
    constexpr int CHUNK = SharedTile<T, COLS>::CHUNK;
    for (int row = 0; row < ROWS; row++, from += stride) {
        const int valid = row < valid_rows ? valid_cols : 0;
        for (int col = 0; col < COLS; col += CHUNK)
            host_copy_now({tile.at(row, col), col < valid ? from + col : nullptr});
    }
}
#endif

// Starts copying ROWS rows from `from` (row stride in elements); rows from valid_rows on and columns from
// valid_cols on (a multiple of 8) are filled with zeros. Called by all THREADS of the block; the caller
// commits and waits.
template <int ROWS, int THREADS, typename T, int COLS>
__device__ __forceinline__ void load_tile_async(SharedTile<T, COLS> tile, const T *from, size_t stride, int valid_rows,
                                                int valid_cols) {
    using Tile = SharedTile<T, COLS>;
#ifdef LLMC_TARGET_CPU
    if (wide_warps()) {
        if (threadIdx.x == 0) host_copy_tile<ROWS>(tile, from, stride, valid_rows, valid_cols);
        return;
    }
#endif
#pragma unroll
    for (int i = (int)threadIdx.x; i < ROWS * Tile::CHUNKS; i += THREADS) {
        int row = i / Tile::CHUNKS, col = i % Tile::CHUNKS * Tile::CHUNK;
        bool valid = row < valid_rows && col < valid_cols;
        cp_async_16(tile.at(row, col), valid ? from + (size_t)row * stride + col : from, valid);
    }
}

// ---- fragments

// 16 x N. Lane l holds rows g = l/4 (h = 0) and g + 8 (h = 1), in blocks of 8W columns:
// c[b][h][j * W + i] = C[g + 8h][8 (b W + i) + 2 (l%4) + j], j = 0, 1. A row's values are contiguous for the
// host's vectors.
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
                *(uint32_t *)tile.at(row0 + 8 * h + lane / 4, Acc<N>::column(lane, b, i)) = packed[i];
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

// ---- the GPU's instructions

namespace by_instruction {

// Where lane l points for ldmatrix.x4: matrices 0 to 3 are rows 0-7 and 8-15 of columns 0-7, then of columns
// 8-15. Without transposition it gives a FragA; with it, the two column tiles of a B that stands as [k][n].
__device__ __forceinline__ int rows_first_row(int lane) { return lane % 16; }
__device__ __forceinline__ int rows_first_col(int lane) { return lane / 16 * 8; }
// Matrices 0 to 3 are columns 0-7 and 8-15 of rows 0-7, then of rows 8-15: the two column tiles of a B that
// stands as [n][k].
__device__ __forceinline__ int cols_first_row(int lane) { return lane % 8 + lane / 16 * 8; }
__device__ __forceinline__ int cols_first_col(int lane) { return lane / 8 % 2 * 8; }

// Rows row0 to row0 + 15, columns 0 to K - 1.
template <int K, int COLS>
__device__ __forceinline__ void load_a(FragA<__nv_bfloat16, K> &frag, SharedTile<__nv_bfloat16, COLS> tile, int row0) {
    int lane = lane_id();
#pragma unroll
    for (int k = 0; k < K; k += 16) {
        uint32_t r[4];
        ldmatrix_x4(r, tile.at(row0 + rows_first_row(lane), k + rows_first_col(lane)));
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

template <bool BIsRowMajor, int M, int N, int K, int COLS>
__device__ __forceinline__ void multiply(Acc<N> (&acc)[M], const FragA<__nv_bfloat16, K> (&frag)[M],
                                         SharedTile<__nv_bfloat16, COLS> b, int col0) {
    int lane = lane_id();
#pragma unroll
    for (int k = 0; k < K; k += 16)
#pragma unroll
        for (int n = 0; n < N; n += 16) {
            uint32_t r[4];
            if (BIsRowMajor)
                ldmatrix_x4_trans(r, b.at(k + rows_first_row(lane), col0 + n + rows_first_col(lane)));
            else
                ldmatrix_x4(r, b.at(n + cols_first_row(lane), k + cols_first_col(lane)));
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_tile(acc[m], frag[m], n, k, r[0], r[1]);
                mma_tile(acc[m], frag[m], n + 8, k, r[2], r[3]);
            }
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

} // namespace by_instruction

// ---- what kernels call

#ifdef LLMC_TARGET_CPU
#include "cpu/multiply.h"
#else
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
