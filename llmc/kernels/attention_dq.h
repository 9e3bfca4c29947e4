// dQ beside dK and dV: sums over the tiles of keys, which different blocks have, always in the order of the keys.
//
// A tile of queries sees the tiles of keys from that of its first document's begin to that of its last query. Its sums stand
// in global memory in fp32, and a counter says how many of these tiles have been added: a block adds when all before have.
// The first one overwrites, so that nothing need be cleared; the last one scales, rounds and stores dQ. Where a block has all
// keys, on the CPU, it needs no turns, and keeps the sums to itself.
#ifndef LLMC_KERNELS_ATTENTION_DQ_H
#define LLMC_KERNELS_ATTENTION_DQ_H

#include <string.h>

#include "device/ptx/recompute.h"
#include "device/turns.h"
#include "kernels/attention_gradients.h"

// A tile of keys with its key/value head, and the first column of dQ, dK and dV that the block computes.
struct KeyBlock {
    int tile, head, b, part, col0;
};

// A tile of queries as a block comes to it.
struct QueryTile {
    int head;      // within the group
    int tile;      // of COLS queries
    int query0;    // its first
    int first_doc; // where that one's document begins
};

// What attention_backward takes as scratch.
template <typename Tiles> struct BackwardScratch {
    enum { SUMS = Tiles::COLS * Tiles::OUT }; // of a tile of queries
    float *d;                                 // [B, NH, T]
    unsigned *ticket;
    int *turns;  // [B, NH, tiles of queries, PARTS]
    float *sums; // [B, NH, tiles of queries, PARTS, SUMS]; not where a block has all keys

    BackwardScratch(float *scratch, QkvLayout layout)
        : d(scratch), ticket((unsigned *)d + rounded(num_stats(layout))), turns((int *)ticket + 1),
          sums((float *)ticket + rounded(num_counters(layout))) {}

    static size_t rounded(size_t count) { return (count + 3) / 4 * 4; } // to 16 bytes
    static size_t num_stats(QkvLayout layout) { return (size_t)layout.B * layout.NH * layout.T; }
    static __host__ __device__ int tiles(int T) { return ceil_div(T, Tiles::COLS); }
    static __host__ __device__ size_t index(QkvLayout layout, int b, int head, int tile, int part) {
        return (((size_t)b * layout.NH + head) * tiles(layout.T) + tile) * Tiles::PARTS + part;
    }
    // the ticket's and those of the turns
    static size_t num_counters(QkvLayout layout) { return 1 + index(layout, layout.B, 0, 0, 0); }
    static size_t num_floats(QkvLayout layout) {
        const size_t sums = Tiles::ALL_KEYS ? 0 : index(layout, layout.B, 0, 0, 0) * SUMS;
        return rounded(num_stats(layout)) + rounded(num_counters(layout)) + sums;
    }
};

// ---- by turns

// What a block knows of the turns, and of the one that runs.
template <typename Tiles> struct DqTurns {
    enum { OUT = Tiles::OUT, SUMS = Tiles::COLS * Tiles::OUT };
    floatX *dqkv;
    int *turns;  // as in BackwardScratch
    float *sums; // likewise
    QkvGroup group;
    int first_index; // in turns, of the first head and tile
    int key_tile, col0;
    float factor; // dQ is so many times the sum

    // of the tile of queries at hand
    int index = 0;  // in turns
    int before = 0; // how many blocks come before this one
    bool last = true;

    __device__ DqTurns(floatX *gradients, const BackwardScratch<Tiles> &scratch, QkvLayout sizes, KeyBlock own,
                       float times)
        : dqkv(gradients), turns(scratch.turns), sums(scratch.sums), group(sizes, own.b, own.head),
          first_index((int)BackwardScratch<Tiles>::index(sizes, own.b, own.head * (sizes.NH / sizes.NKV), 0, own.part)),
          key_tile(own.tile), col0(own.col0), factor(times) {}

    __device__ __forceinline__ void come_to(QueryTile at) {
        const int tiles = BackwardScratch<Tiles>::tiles((int)group.T);
        index = first_index + (at.head * tiles + at.tile) * Tiles::PARTS;
        before = key_tile - (int)((unsigned)at.first_doc / Tiles::ROWS);
        last = key_tile == (int)((unsigned)at.query0 / Tiles::ROWS);
    }
    __device__ __forceinline__ float *tile_sums() const { return sums + (size_t)(unsigned)index * SUMS; }
    __device__ __forceinline__ floatX *gradient(QueryTile at, int row, int col) const {
        return dqkv + group.query(at.head, at.query0 + row) + col0 + col;
    }
};

// to [rows x cols] = factor times rows of `width` sums
inline __device__ void store_sums(floatX *to, size_t stride, const float *sums, int width, int rows, int cols,
                                  float factor) {
    for (int row = 0; row < rows; row++, to += stride, sums += width)
        for (int col = 0; col < cols; col += VEC) {
            float scaled[VEC];
            EACH_ELEMENT
            for (int i = 0; i < VEC; i++) scaled[i] = sums[col + i] * factor;
            store_vec(to + col, scaled);
        }
}

template <typename Tiles, typename Warp = typename Tiles::Warp> struct DqByTurns;

// Each warp has a part of the tile, 16 queries x PARTS * N columns, and adds the keys of all warps, whose dS come by shared
// memory. Sums stand as the warps' lanes hold them, 16 bytes of one thread beside those of the next.
template <typename Tiles> struct DqByTurns<Tiles, LaneWarp> : DqTurns<Tiles> {
    static constexpr int ROW_TILES = Tiles::COLS / 16, COLUMNS = Tiles::OUT * ROW_TILES / Tiles::WARPS;
    static constexpr int N = COLUMNS < 64 ? COLUMNS : 64, PARTS = COLUMNS / N; // one after the other, to save registers
    static_assert(Tiles::WARPS % ROW_TILES == 0 && Tiles::ROWS % Tiles::COLS == 0, "");
    typedef Acc<N> Sums[1];
    SharedTile<floatX, Tiles::COLS> ds_tile; // [keys][queries]
    int passed = -1, passed_own = 0; // index of the turn that is to be passed next, or -1; how many were before it
    int looked = 0;

    static constexpr size_t shared_bytes() { return sizeof(floatX) * Tiles::ROWS * Tiles::COLS; }
    __device__ DqByTurns(floatX *dqkv, void *shared, const BackwardScratch<Tiles> &scratch, QkvLayout layout,
                         KeyBlock block, float factor)
        : DqTurns<Tiles>(dqkv, scratch, layout, block, factor), ds_tile{(floatX *)shared} {}

    // Turns to the next tile, when all warps are done with the one before. That one's turn is passed later, when what was
    // written in it has arrived.
    __device__ __forceinline__ void come_to(QueryTile at) {
        passed = this->last ? -1 : this->index;
        passed_own = this->before;
        DqTurns<Tiles>::come_to(at);
        if (threadIdx.x == 0) looked = look_at_turns(this->turns + this->index);
    }
    template <typename Scores> __device__ __forceinline__ void bring(Scores &ds, bool seen, int warp_row) {
        if (!seen) zero_all(ds);
        store_acc(ds_tile, warp_row, ds);
        if (threadIdx.x == 0)
            change_turns(this->turns + this->index, this->before, looked, passed < 0 ? nullptr : this->turns + passed,
                         passed_own);
    }
    __device__ __forceinline__ void begin(Sums &sums, int part = 0) const {
        if (this->before == 0)
            zero_all(sums);
        else
            visit(sums, part, [](float(&own)[4], float *kept) { load_vec(own, (const float *)kept); });
    }
    template <typename Left, typename Tile>
    __device__ __forceinline__ void add(QueryTile at, Sums &sums, const Left &, Tile k_tile, Tile q_tile, bool) {
        const int warp = recompute((int)threadIdx.x / 32), row = warp % ROW_TILES * 16;
        FragA<floatX, Tiles::ROWS> ds[1];
        load_a_transposed(ds[0], ds_tile, row);
        if (this->last) __syncthreads(); // the queries have been read, and their place is free
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            const int col = warp / ROW_TILES * COLUMNS + part * N;
            if (part > 0) begin(sums, part);
            multiply_nn(sums, ds, k_tile, this->col0 + col);
            if (this->last)
                store_gradient<32>(this->gradient(at, row, col), this->group.qkv_stride,
                                   SharedTile<floatX, N>{q_tile.data + (warp * PARTS + part) * 16 * N}, sums, 0,
                                   (int)this->group.T - at.query0 - row, (int)this->group.HD - this->col0 - col,
                                   this->factor);
            else
                visit(sums, part, [](float(&own)[4], float *kept) { store_vec(kept, own); });
        }
    }

  private:
    // visit(four sums of this thread, their place in global memory), as an instruction of a product leaves them
    template <typename Visit> __device__ __forceinline__ void visit(Sums &sums, int part, Visit visit_four) const {
        constexpr int W = Acc<N>::W;
        float *place = this->tile_sums() + part * (N / 2) * Tiles::THREADS + 4 * threadIdx.x;
#pragma unroll
        for (int i = 0; i < N / 8; i++) {
            float(&c)[2][2 * W] = sums[0].c[i / W];
            float four[4] = {c[0][i % W], c[0][W + i % W], c[1][i % W], c[1][W + i % W]};
            visit_four(four, place + 4 * i * Tiles::THREADS);
            c[0][i % W] = four[0], c[0][W + i % W] = four[1], c[1][i % W] = four[2], c[1][W + i % W] = four[3];
        }
    }
};

struct NoSums {};

// Sums as rows of OUT columns.
template <typename Tiles> struct DqByTurns<Tiles, WholeWarp> : DqTurns<Tiles> {
    typedef NoSums Sums;

    static constexpr size_t shared_bytes() { return 0; }
    DqByTurns(floatX *dqkv, void *, const BackwardScratch<Tiles> &scratch, QkvLayout layout, KeyBlock block,
              float factor)
        : DqTurns<Tiles>(dqkv, scratch, layout, block, factor) {}

    template <typename Scores> void bring(Scores &, bool, int) const {}
    void begin(Sums &) const {}
    template <typename Left, typename Tile>
    __device__ void add(QueryTile at, Sums &, const Left &ds, Tile k_tile, Tile, bool seen) {
        int *const turn = this->turns + this->index;
        float *const tile_sums = this->tile_sums();
        change_turns(turn, this->before, look_at_turns(turn), nullptr, 0);
        if (this->before == 0) memset(tile_sums, 0, sizeof(float) * Tiles::COLS * Tiles::OUT);
        if (seen) multiply_tn(tile_sums, Tiles::OUT, ds, k_tile, this->col0);
        if (this->last)
            store_sums(this->gradient(at, 0, 0), this->group.qkv_stride, tile_sums, Tiles::OUT,
                       min((int)Tiles::COLS, (int)this->group.T - at.query0),
                       min((int)Tiles::OUT, (int)this->group.HD - this->col0), this->factor);
        store_flag(turn, this->before + 1);
    }
};

// ---- by a block that has all keys

// dQ of the query heads of a group, in memory of the block: [heads][T, filled up to whole tiles][OUT].
template <typename Tiles> struct GroupDqSums {
    enum { OUT = Tiles::OUT }; // columns
    typedef NoSums Sums;
    float *sums;
    int queries, col0; // with the filling

    static int padded(int T) { return ceil_div(T, Tiles::COLS) * Tiles::COLS; }
    static size_t bytes(QkvLayout layout) {
        return sizeof(float) * OUT * (size_t)(layout.NH / layout.NKV) * (size_t)padded(layout.T);
    }

    void clear(QkvLayout layout) const { memset(sums, 0, bytes(layout)); }
    void come_to(QueryTile) const {}
    template <typename Scores> void bring(Scores &, bool, int) const {}
    void begin(Sums &) const {}
    template <typename Left, typename Tile>
    __device__ void add(QueryTile at, Sums &, const Left &ds, Tile k_tile, Tile, bool seen) const {
        if (seen) multiply_tn(sums + ((size_t)at.head * queries + at.query0) * OUT, OUT, ds, k_tile, col0);
    }
    __device__ void store(floatX *dqkv, QkvLayout layout, KeyBlock block, float factor) const {
        const int group = layout.NH / layout.NKV;
        for (int head = 0; head < group; head++)
            store_sums(dqkv + layout.query(block.b, block.head * group + head, 0) + col0, layout.qkv_stride(),
                       sums + (size_t)head * queries * OUT, OUT, layout.T, min((int)OUT, layout.HD - col0), factor);
    }
};

#endif
