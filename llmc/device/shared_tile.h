// Tiles of matrices in shared memory, and how they get there from global memory.
#ifndef LLMC_DEVICE_SHARED_TILE_H
#define LLMC_DEVICE_SHARED_TILE_H

#include <cuda_runtime.h>

#include "device/ptx/cp_async.h"
#include "device/wide_warps.h"

// Rows of COLS elements (a power of two; 64 bytes a row at least). The 16-byte chunk c of row r stands at place
// c ^ swizzle(r), so that eight consecutive rows of one chunk, as ldmatrix reads them, lie in eight different groups of
// banks.
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
// What load_tile_async does, by one thread: a row's address and limits are worked out once.
template <int ROWS, typename T, int COLS>
inline void host_copy_tile(SharedTile<T, COLS> tile, const T *from, size_t stride, int valid_rows, int valid_cols) {
    constexpr int CHUNK = SharedTile<T, COLS>::CHUNK;
    host_check_aligned(tile.data, 16, "cp.async writes");
    for (int row = 0; row < ROWS; row++, from += stride) {
        const int valid = row < valid_rows ? valid_cols : 0;
        host_check_aligned(from, 16, "cp.async reads");
        for (int col = 0; col < COLS; col += CHUNK)
            host_copy_now({tile.at(row, col), col < valid ? from + col : nullptr});
    }
}
#endif

// Starts to copy ROWS rows from `from` (stride: elements from one row to the next); rows from valid_rows on and columns from
// valid_cols on (a multiple of 8) are filled with zeros. All THREADS of the block call it; the caller commits and waits.
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

#endif
