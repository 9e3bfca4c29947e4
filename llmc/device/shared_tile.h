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

    // A thread's chunk of the tile, for accesses that lie a number of rows and columns away which is known when this is
    // compiled: they cost nothing, or one instruction each. As an index in binary, neither of these numbers may share a bit
    // with the place's own row or chunk; then no sum carries, and swizzles are combined by ^ as well.
    struct Place {
        T *row;
        int chunk; // swizzled

        __device__ __forceinline__ T *at(int rows, int cols) const {
            const int chunks = cols / CHUNK, group = 8; // the swizzle stays within a group
            return row + rows * COLS + chunks / group * group * CHUNK +
                   (chunk ^ (chunks % group) ^ swizzle(rows)) * CHUNK;
        }
    };
    __device__ __forceinline__ Place place(int row, int col) const {
        return {data + row * COLS, col / CHUNK ^ swizzle(row)};
    }
};

// Starts to copy ROWS rows from `from` (stride: elements from one row to the next); rows from valid_rows on and columns from
// valid_cols on (a multiple of 8) are filled with zeros. All THREADS of the block call it; the caller commits and waits.
// A thread copies one chunk in each of a constant number of passes.
template <int ROWS, int THREADS, typename T, int COLS>
__device__ __forceinline__ void load_tile_async(SharedTile<T, COLS> tile, const T *from, int stride, int valid_rows,
                                                int valid_cols) {
    using Tile = SharedTile<T, COLS>;
    static_assert((THREADS & (THREADS - 1)) == 0 && ROWS * Tile::CHUNKS % THREADS == 0, "every pass is whole");
    const int row = (int)threadIdx.x / Tile::CHUNKS, col = (int)threadIdx.x % Tile::CHUNKS * Tile::CHUNK;
    const typename Tile::Place to = tile.place(row, col);
    const int rows_left = valid_rows - row, cols_left = valid_cols - col;
    from += (size_t)(unsigned)row * (unsigned)stride + col;
#pragma unroll
    for (int i = 0; i < ROWS * Tile::CHUNKS; i += THREADS) {
        const int rows = i / Tile::CHUNKS, cols = i % Tile::CHUNKS * Tile::CHUNK;
        cp_async_16(to.at(rows, cols), from + (size_t)(unsigned)stride * (unsigned)rows + cols,
                    rows < rows_left && cols < cols_left);
    }
}

#endif
