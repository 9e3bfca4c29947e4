// What the forward and backward kernels of attention share: sizes of tiles and how tiles move.
#ifndef LLMC_KERNELS_ATTENTION_TILES_H
#define LLMC_KERNELS_ATTENTION_TILES_H

#include <assert.h>

#include "device/launch.h"
#include "device/math.h"
#include "device/mma.h"
#include "device/wide_warps.h"
#include "kernels/attention_mask.h"
#include "kernels/qkv_layout.h"

// A block owns ROWS rows (queries, or keys and values), 16 * M for each of its WARPS, and streams tiles of
// COLS rows of the other side through shared memory. Sizes keep the accumulators in registers and shared memory
// within the 99 KB of sm_89.
template <int HeadDim, int M_, int Warps, int Cols> struct AttentionTiles {
    typedef LaneWarp Warp;
    enum { HD = HeadDim, M = M_, WARPS = Warps, COLS = Cols };
    enum { THREADS = 32 * WARPS, ROWS = 16 * M * WARPS };
    static_assert(HD % 32 == 0 && COLS % 16 == 0, "");
};

// The same for a block of one warp that is one thread (device/wide_warps.h).
template <typename Tiles> struct WideWarp : Tiles {
    typedef WholeWarp Warp;
    enum { M = 4, WARPS = 1, THREADS = 1, ROWS = 64 };
};

// floatX elements of `rows` rows of a tile.
template <typename Tiles> __host__ __device__ constexpr size_t tile_bytes(int rows) {
    return sizeof(floatX) * Tiles::HD * (size_t)rows;
}
enum { SHARED_LIMIT = 99 * 1024 };

// Copies rows of a tile to global memory, 16 bytes a thread: `count` rows from row0 of the tile to `to`. For one warp of LANES
// threads, which wrote these rows.
template <int ROWS, int LANES, typename Tile>
__device__ __forceinline__ void store_rows(floatX *to, size_t stride, Tile tile, int row0, int count, int valid_cols) {
#pragma unroll
    for (int i = lane_id(); i < ROWS * Tile::CHUNKS; i += LANES) {
        int row = i / Tile::CHUNKS, col = i % Tile::CHUNKS * Tile::CHUNK;
        if (row < count && col < valid_cols)
            access_as<uint4>(to + (size_t)row * stride + col) = access_as<uint4>(tile.at(row0 + row, col));
    }
}

// The kernels are instantiated for these head dimensions; the others take the next larger, filled up with
// zeros.
#define ATTENTION_DISPATCH(HD, call)                                                                                   \
    do {                                                                                                               \
        assert((HD) % 16 == 0 && (HD) >= 16 && (HD) <= 256);                                                           \
        if ((HD) <= 32)                                                                                                \
            call(32);                                                                                                  \
        else if ((HD) <= 64)                                                                                           \
            call(64);                                                                                                  \
        else if ((HD) <= 128)                                                                                          \
            call(128);                                                                                                 \
        else                                                                                                           \
            call(256);                                                                                                 \
    } while (0)

#endif
