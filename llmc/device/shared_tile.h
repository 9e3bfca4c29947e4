// Tiles of matrices in shared memory, and how they get there from global memory.
#ifndef LLMC_DEVICE_SHARED_TILE_H
#define LLMC_DEVICE_SHARED_TILE_H

#include <cuda_runtime.h>

#include "device/ptx/cp_async.h"

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

// Starts to copy ROWS rows from `from` (stride: elements from one row to the next); rows from valid_rows on and columns from
// valid_cols on (a multiple of 8) are filled with zeros. All THREADS of the block call it; the caller commits and waits.
template <int ROWS, int THREADS, typename T, int COLS>
__device__ __forceinline__ void load_tile_async(SharedTile<T, COLS> tile, const T *from, size_t stride, int valid_rows,
                                                int valid_cols) {
    using Tile = SharedTile<T, COLS>;
#pragma unroll
    for (int i = (int)threadIdx.x; i < ROWS * Tile::CHUNKS; i += THREADS) {
        int row = i / Tile::CHUNKS, col = i % Tile::CHUNKS * Tile::CHUNK;
        bool valid = row < valid_rows && col < valid_cols;
        cp_async_16(tile.at(row, col), valid ? from + (size_t)row * stride + col : from, valid);
    }
}

#endif
