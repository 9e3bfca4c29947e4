// Attention, backward. With P = softmax(S scale), S = Q K^T, O = P V and D_i = sum_d dO_id O_id:
//   dV = P^T dO,   dP = dO V^T,   dS = P * (dP - D),   dQ = scale dS K,   dK = scale dS^T Q
// P is recomputed from S and the log-sum-exp that the forward pass kept: p = exp(s scale - lse).
//
// Two kernels: D; all else, five products, by tiles of keys, which walk over the tiles of queries that see them, of all query
// heads of the group. dK and dV stay with the block; dQ is summed in turns (kernels/attention_dq.h), with no atomics on floats.
//
// Turns without waiting: all blocks walk downwards from the last query, so that those of the first keys, which have most to do
// and start first, pass each tile on to the next block when that comes to it. Where queries walk upwards, as on the CPU, which
// runs few blocks at once, they would keep the pace of the first.
#include "kernels/attention.h"
#include "kernels/attention_dq.h"

namespace {

constexpr bool FP32 = sizeof(floatX) == 4;

// OUT: columns of dQ, dK and dV that a block computes; with a head dimension of 256 two blocks share the work,
// since the accumulators of one would not fit the registers.
template <int HeadDim, int M, int Warps, int Cols> struct BackwardTiles : AttentionTiles<HeadDim, M, Warps, Cols> {
    enum { OUT = HeadDim < 128 ? HeadDim : 128, PARTS = HeadDim / OUT, ALL_KEYS = 0, DOWNWARDS = 1 };
};
template <int HD> struct Backward;
template <> struct Backward<32> : BackwardTiles<32, 2, 4, 64> {};
template <> struct Backward<64> : BackwardTiles<64, 1, FP32 ? 4 : 8, 64> {};
template <> struct Backward<128> : BackwardTiles<128, 1, FP32 ? 2 : 8, 32> {};
template <> struct Backward<256> : BackwardTiles<256, 1, FP32 ? 1 : 2, FP32 ? 16 : 32> {};

// AllKeys: a block owns all keys of a head: fewer blocks, which need no turns.
template <typename Tiles, bool AllKeys> struct WideBackward : WideWarp<Tiles> {
    enum { COLS = 64, ALL_KEYS = AllKeys, DOWNWARDS = 0 };
};

// Key/value heads whose blocks are started together, the first tile of each, then the second: enough to fill a GPU, and few
// enough for its cache.
enum { HEADS_AT_ONCE = 8 };

// What the kernel needs to know of each query of a tile, in the order in which a lane holds the columns of an Acc.
struct QueryStats {
    float *lse; // times log2(e); infinity, which makes p = 0, after the last query
    float *d;
    int *doc; // first position of the query's document
};

// Keys, values, two tiles of queries, one of dout; then what QueryStats points to, twice; then dS or the sums of dQ.
template <typename Tiles> __host__ __device__ constexpr size_t tiles_shared() {
    return tile_bytes<Tiles>(2 * Tiles::ROWS + 3 * Tiles::COLS);
}
template <typename Tiles> __host__ __device__ constexpr size_t stats_shared() {
    return 2 * 3 * sizeof(float) * Tiles::COLS;
}
template <typename Tiles> __host__ __device__ constexpr size_t key_shared() {
    return tiles_shared<Tiles>() + stats_shared<Tiles>();
}

// ---- D

// A group of LANES lanes for each of ROWS_EACH rows (token and head) of HD elements.
enum { D_THREADS = 128, D_ROWS = 4 };

// One lane does as 32 do, so that it adds in their order.
template <int LANES>
__global__ void __launch_bounds__(D_THREADS)
    attention_d_kernel(float *d, int *counters, long num_counters, const floatX *dout, const floatX *out,
                       QkvLayout layout, long rows) {
    constexpr int PARTS = LANES == 1 ? 32 : 1;
    const int groups = D_THREADS / LANES, lane = (int)threadIdx.x % LANES;
    const long row0 = (long)blockIdx.x * groups * D_ROWS + threadIdx.x / LANES;
#pragma unroll 1
    for (long i = (long)blockIdx.x * D_THREADS + threadIdx.x; i < num_counters; i += (long)gridDim.x * D_THREADS)
        counters[i] = 0; // for the kernel that follows
    float sum[D_ROWS];
#pragma unroll
    for (int r = 0; r < D_ROWS; r++) {
        const long row = row0 + r * groups;
        sum[r] = 0.0f;
        if (row >= rows) continue;
        float parts[PARTS] = {};
        for (int col = lane * VEC; col < layout.HD; col += LANES * VEC) {
            float a[VEC], b[VEC];
            load_vec(a, dout + row * layout.HD + col);
            load_vec(b, out + row * layout.HD + col);
            EACH_ELEMENT
            for (int i = 0; i < VEC; i++) a[i] *= b[i];
            parts[col / VEC % PARTS] += sum_vec(a);
        }
        sum[r] = sum_vec(parts);
    }
    if (LANES > 1) group_sum<LANES>(sum);
#pragma unroll
    for (int r = 0; r < D_ROWS; r++) {
        const long row = row0 + r * groups; // row = (b * T + t) * NH + head
        if (lane != 0 || row >= rows) continue;
        const long token = row / layout.NH;
        d[layout.stat((int)(token / layout.T), (int)(row % layout.NH), (int)(token % layout.T))] = sum[r];
    }
}

// ---- dQ, dK, dV

// First query after key_last that doesn't see it any more (T if there is none): doc_start doesn't decrease.
__device__ __forceinline__ int queries_end(const int *doc_start, int key_last, int T) {
    int low = key_last + 1, high = T;
    while (low < high) {
        int middle = (low + high) / 2;
        if (doc_start[middle] <= key_last)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

// What is excluded from the queries of a tile.
template <int LANES, int COLS>
__device__ __forceinline__ SharedExclusion tile_exclusion(const int *excluded, int query0, int T) {
    constexpr int EACH = ceil_div(COLS, LANES);
    int query[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) query[i] = min(query0 + (LANES * i + lane_id()) % COLS, T - 1);
    return shared_exclusion<LANES>(excluded, query);
}

// Statistics of the queries of a tile, on their way from global to shared memory.
template <typename Tiles> struct StatsCopy {
    using Of = Held<typename Tiles::Warp::template Acc<Tiles::M, Tiles::COLS>>;
    static constexpr int EACH = ceil_div((int)Tiles::COLS, (int)Tiles::THREADS);
    float lse[EACH], d[EACH];
    int doc[EACH];

    // global: of the head
    __device__ __forceinline__ void load(const float *all_lse, const float *all_d, const int *doc_start, int query0,
                                         int T) {
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int query = query0 + Of::listed(place(i));
            if (place(i) >= Tiles::COLS) continue;
            lse[i] = query < T ? all_lse[query] : INFINITY;
            d[i] = query < T ? all_d[query] : 0.0f;
            doc[i] = doc_start[min(query, T - 1)];
        }
    }
    __device__ __forceinline__ void store(const QueryStats &stats) const {
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            if (place(i) >= Tiles::COLS) continue;
            stats.lse[place(i)] = lse[i] * LOG2E;
            stats.d[place(i)] = d[i];
            stats.doc[place(i)] = doc[i];
        }
    }

  private:
    static __device__ __forceinline__ int place(int i) { return recompute((int)threadIdx.x) + i * Tiles::THREADS; }
};

template <typename Scores>
__device__ __forceinline__ void softmax_gradients(Scores &p, Scores &ds, ByColumn lse, ByColumn d, float scale) {
    using Of = Held<Scores>;
#pragma unroll
    for (int r = 0; r < Of::ROWS; r++) softmax_gradient(Of::row(p, r, 0), Of::row(ds, r, 0), lse, d, scale);
}

// The order in which a block comes to tiles of queries [first, end) of each head of the group: downwards, all heads of a tile
// one after the other; or upwards, head by head.
template <bool DOWNWARDS> struct QueryWalk {
    int first, end, group;
    int head = 0, tile;

    __device__ QueryWalk(int first_tile, int end_tile, int heads)
        : first(first_tile), end(end_tile), group(heads), tile(DOWNWARDS ? end_tile - 1 : first_tile) {}
    // False at the end.
    __device__ __forceinline__ bool next() {
        if (DOWNWARDS) {
            if (++head < group) return true;
            head = 0;
            return --tile >= first;
        }
        if (++tile < end) return true;
        tile = first;
        return ++head < group;
    }
};

// Gradients of the keys and values of one tile, and what they add to those of the queries.
template <typename Tiles, bool EXCLUDES, typename Dq>
__device__ __forceinline__ void key_tile_gradients(floatX *dqkv, Dq &dq, floatX *shared, const floatX *dout,
                                                   const floatX *qkv, const float *lse, const float *d,
                                                   AttentionMask mask, QkvLayout layout, KeyBlock block, float scale) {
    constexpr int HD = Tiles::HD, M = Tiles::M, ROWS = Tiles::ROWS, COLS = Tiles::COLS, THREADS = Tiles::THREADS;
    using Warp = typename Tiles::Warp;
    using Tile = typename Warp::template Tile<floatX, HD>;
    using Scores = typename Warp::template Acc<M, COLS>;
    const Tile k_tile = {shared}, v_tile = {shared + ROWS * HD}, dout_tile = {shared + 2 * ROWS * HD};
    auto query_tile = [=](int buffer) { return Tile{shared + (2 * ROWS + (1 + buffer) * COLS) * HD}; };
    auto query_stats = [=](int buffer) {
        float *start = (float *)((char *)shared + tiles_shared<Tiles>()) + buffer * 3 * COLS;
        return QueryStats{start, start + COLS, (int *)(start + 2 * COLS)};
    };

    const int T = layout.T, stride = layout.qkv_stride(), width = layout.HD;
    const int key0 = block.tile * ROWS, key_last = min(key0 + ROWS, T) - 1;
    const size_t keys = layout.key(block.b, block.head, key0), values_behind = (size_t)layout.NKV * layout.HD;
    const QkvGroup group(layout, block.b, block.head);
    const int *doc_start = mask.doc_start + (size_t)block.b * T;
    const int *excluded = EXCLUDES ? mask.excluded + 2 * (size_t)block.b * T : nullptr;

    QueryWalk<Tiles::DOWNWARDS> walk(key0 / COLS, ceil_div(queries_end(doc_start, key_last, T), COLS),
                                     layout.NH / layout.NKV);
    StatsCopy<Tiles> coming_stats;
    auto load_queries = [&](int buffer) {
        const int query0 = walk.tile * COLS;
        load_tile_async<COLS, THREADS>(query_tile(buffer), qkv + group.query(walk.head, query0), stride, T - query0,
                                       width);
        cp_async_commit();
        const size_t row = group.stat(walk.head, 0);
        coming_stats.load(lse + row, d + row, doc_start, query0, T);
    };
    auto load_dout = [&] {
        const int query0 = walk.tile * COLS;
        load_tile_async<COLS, THREADS>(dout_tile, dout + group.output(walk.head, query0), (int)group.out_stride,
                                       T - query0, width);
        cp_async_commit();
    };
    load_tile_async<ROWS, THREADS>(k_tile, qkv + keys, stride, T - key0, width);
    load_tile_async<ROWS, THREADS>(v_tile, qkv + keys + values_behind, stride, T - key0, width);
    load_queries(0);
    load_dout();
    coming_stats.store(query_stats(0));

    const int warp_row = (int)threadIdx.x / 32 * 16 * M, warp_key0 = key0 + warp_row;
    const bool active = warp_key0 < T;
    const int warp_end = min(warp_key0 + 16 * M, T);
    typename Warp::template Acc<M, Tiles::OUT> dk, dv;
    zero_all(dk);
    zero_all(dv);

    bool more = true;
    for (int buffer = 0; more; buffer ^= 1) {
        cp_async_wait<0>();
        __syncthreads(); // this tile is there for all, and nobody reads the other buffer any more
        const Tile q_tile = query_tile(buffer);
        const QueryStats stats = query_stats(buffer); // the first and last column stand first and last in it too
        const QueryTile at = {walk.head, walk.tile, walk.tile * COLS, stats.doc[0]};
        dq.come_to(at);
        more = walk.next();
        if (more) load_queries(buffer ^ 1);

        const QuerySpan span = {at.query0, min(at.query0 + COLS, T) - 1, at.first_doc, stats.doc[COLS - 1]};
        const SharedExclusion exclusion =
            EXCLUDES ? tile_exclusion<Warp::LANES, COLS>(excluded, at.query0, T) : SharedExclusion{};
        const bool seen =
            active && !span.sees_none(warp_key0, warp_end) && !(EXCLUDES && exclusion.has_all(warp_key0, warp_end));
        Scores ds;
        typename Warp::template Left<floatX, M, COLS> ds_left;
        if (seen) {
            Scores p;
            product_rows(p, k_tile, warp_row, q_tile);
            if (EXCLUDES && exclusion.has_any(warp_key0, warp_end))
                exclude_keys_transposed(p, excluded, warp_key0, at.query0, T);
            product_rows(ds, v_tile, warp_row, dout_tile);
            const int first_stat = Held<Scores>::first_listed();
            if (!span.sees_all(warp_key0, warp_end))
                mask_keys_transposed(p, stats.doc + first_stat, warp_key0, at.query0);
            softmax_gradients(p, ds, ByColumn{stats.lse + first_stat}, ByColumn{stats.d + first_stat}, scale);
            typename Warp::template Left<floatX, M, COLS> p_left;
            left_from_acc(p_left, p);
            left_from_acc(ds_left, ds);
            multiply_nn(dv, p_left, dout_tile, block.col0);
        }
        if (more) coming_stats.store(query_stats(buffer ^ 1));
        dq.bring(ds, seen, warp_row);
        __syncthreads(); // what dQ needs of all warps is there, and nobody reads dout any more
        if (more) load_dout();
        typename Dq::Sums sums;
        dq.begin(sums);
        if (seen) multiply_nn(dk, ds_left, q_tile, block.col0);
        dq.add(at, sums, ds_left, k_tile, q_tile, seen);
    }
    __syncthreads(); // the keys have been read for the last time
    if (!active) return;
    floatX *const to = dqkv + keys + block.col0;
    store_gradient<Warp::LANES>(to, stride, k_tile, dk, warp_row, T - key0, width - block.col0,
                                fast_divide(scale, LOG2E));
    store_gradient<Warp::LANES>(to + values_behind, stride, v_tile, dv, warp_row, T - key0, width - block.col0, 1.0f);
}

// The work that belongs to a ticket: heads, and parts of their columns, HEADS_AT_ONCE at a time, of these the first tile of each,
// then the second.
template <typename Tiles> __device__ KeyBlock key_block(unsigned ticket, int tiles, QkvLayout layout) {
    const unsigned heads = (unsigned)(Tiles::PARTS * layout.NKV * layout.B);
    const unsigned first = ticket / (unsigned)(HEADS_AT_ONCE * tiles) * HEADS_AT_ONCE;
    const unsigned here = min((unsigned)HEADS_AT_ONCE, heads - first), place = ticket - first * (unsigned)tiles;
    const int head = (int)(first + place % here), part = head % Tiles::PARTS;
    return {(int)(place / here), head / Tiles::PARTS % layout.NKV, head / Tiles::PARTS / layout.NKV, part,
            part * Tiles::OUT};
}

template <typename Tiles, bool EXCLUDES>
__global__ void __launch_bounds__(Tiles::THREADS)
    attention_gradients_kernel(floatX *dqkv, BackwardScratch<Tiles> scratch, const floatX *dout, const floatX *qkv,
                               const float *lse, AttentionMask mask, QkvLayout layout, int tiles, float scale) {
    SHARED_DYNAMIC(floatX, shared);
    void *const of_dq = (char *)shared + key_shared<Tiles>();
    if constexpr (Tiles::ALL_KEYS) {
        KeyBlock block = key_block<Tiles>(blockIdx.x, 1, layout);
        const GroupDqSums<Tiles> dq = {(float *)of_dq, GroupDqSums<Tiles>::padded(layout.T), block.col0};
        dq.clear(layout);
        for (; block.tile < tiles; block.tile++)
            key_tile_gradients<Tiles, EXCLUDES>(dqkv, dq, shared, dout, qkv, lse, scratch.d, mask, layout, block,
                                                scale);
        dq.store(dqkv, layout, block, fast_divide(scale, LOG2E));
    } else {
        const KeyBlock block = key_block<Tiles>(take_ticket(scratch.ticket), tiles, layout);
        DqByTurns<Tiles> dq(dqkv, of_dq, scratch, layout, block, fast_divide(scale, LOG2E));
        key_tile_gradients<Tiles, EXCLUDES>(dqkv, dq, shared, dout, qkv, lse, scratch.d, mask, layout, block, scale);
    }
}

template <typename Tiles> size_t gradients_shared(QkvLayout layout) {
    if constexpr (Tiles::ALL_KEYS)
        return key_shared<Tiles>() + GroupDqSums<Tiles>::bytes(layout);
    else
        return key_shared<Tiles>() + DqByTurns<Tiles>::shared_bytes();
}

template <typename Tiles, bool EXCLUDES>
void backward(floatX *dqkv, float *scratch_floats, const floatX *dout, const floatX *out, const floatX *qkv,
              const float *lse, AttentionMask mask, QkvLayout layout, cudaStream_t stream) {
    const BackwardScratch<Tiles> scratch(scratch_floats, layout);
    const int tiles = ceil_div(layout.T, (int)Tiles::ROWS);

    constexpr int PARTS = Tiles::HD / VEC < 32 ? Tiles::HD / VEC : 32;
    constexpr int LANES = Tiles::Warp::LANES < PARTS ? Tiles::Warp::LANES : PARTS, ROWS = D_THREADS / LANES * D_ROWS;
    const long rows = (long)layout.B * layout.T * layout.NH, counters = (long)scratch.num_counters(layout);
    const dim3 d_blocks((unsigned)ceil_div(rows, (long)ROWS));
    if constexpr (LANES == 1)
        launch_pointwise(attention_d_kernel<1>, d_blocks, dim3(D_THREADS), stream, scratch.d, (int *)scratch.ticket,
                         counters, dout, out, layout, rows);
    else
        launch((attention_d_kernel<LANES>), d_blocks, dim3(D_THREADS), 0, stream, scratch.d, (int *)scratch.ticket,
               counters, dout, out, layout, rows);

    const unsigned heads = (unsigned)(Tiles::PARTS * layout.NKV * layout.B);
    launch((attention_gradients_kernel<Tiles, EXCLUDES>), dim3(Tiles::ALL_KEYS ? heads : heads * (unsigned)tiles),
           dim3(Tiles::THREADS), gradients_shared<Tiles>(layout), stream, dqkv, scratch, dout, qkv, lse, mask, layout,
           tiles, layout.log2_scale());
}

template <int HD, bool EXCLUDES>
void backward_for(floatX *dqkv, float *scratch, const floatX *dout, const floatX *out, const floatX *qkv,
                  const float *lse, AttentionMask mask, QkvLayout layout, cudaStream_t stream) {
    using Tiles = Backward<HD>;
    static_assert(key_shared<Tiles>() + DqByTurns<Tiles>::shared_bytes() <= SHARED_LIMIT, "shared memory of sm_89");
    if constexpr (HAS_WIDE_WARPS) {
        const long groups = (long)layout.B * layout.NKV;
        if (wide_warps())
            return (fill_cores(groups) ? backward<WideBackward<Tiles, true>, EXCLUDES>
                                       : backward<WideBackward<Tiles, false>, EXCLUDES>)(dqkv, scratch, dout, out, qkv,
                                                                                         lse, mask, layout, stream);
    }
    backward<Tiles, EXCLUDES>(dqkv, scratch, dout, out, qkv, lse, mask, layout, stream);
}

template <int HD> size_t scratch_for(QkvLayout layout) {
    using Tiles = Backward<HD>;
    size_t floats = BackwardScratch<Tiles>::num_floats(layout);
    if constexpr (HAS_WIDE_WARPS) floats = max(floats, BackwardScratch<WideBackward<Tiles, false>>::num_floats(layout));
    return floats;
}

} // namespace

extern "C" size_t attention_backward_scratch(AttentionShape shape) {
    const QkvLayout layout(shape);
#define SCRATCH(D) return scratch_for<D>(layout)
    ATTENTION_DISPATCH(shape.HD, SCRATCH);
#undef SCRATCH
    return 0;
}

extern "C" void attention_backward(floatX *dqkv, float *scratch, const floatX *dout, const floatX *out,
                                   const floatX *qkv, const float *lse, AttentionMask mask, AttentionShape shape,
                                   cudaStream_t stream) {
    assert(are_aligned(16, dqkv, scratch, dout, out, qkv));
    const QkvLayout layout(shape);
#define BACKWARD(D)                                                                                                    \
    (mask.excluded ? backward_for<D, true> : backward_for<D, false>)(dqkv, scratch, dout, out, qkv, lse, mask, layout, \
                                                                     stream)
    ATTENTION_DISPATCH(shape.HD, BACKWARD);
#undef BACKWARD
}
