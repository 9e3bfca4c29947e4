// Attention, backward. With P = softmax(S scale), S = Q K^T, O = P V and D_i = sum_d dO_id O_id:
//   dV = P^T dO,   dP = dO V^T,   dS = P * (dP - D),   dQ = scale dS K,   dK = scale dS^T Q
// P is recomputed from S and the log-sum-exp that the forward pass kept: p = exp(s scale - lse).
//
// Three kernels, none with atomics: D; dK and dV by tiles of keys, which walk over the queries that see them,
// of all query heads of the group; dQ by tiles of queries, which walk over the keys they see. Where blocks are wide
// (device/wide_warps.h) and enough, a block does all tiles of keys one after the other and sums dQ as well: the same additions
// in the same order.
#include "kernels/attention.h"
#include "kernels/attention_gradients.h"

namespace {

constexpr bool FP32 = sizeof(floatX) == 4;

// OUT: columns of dK and dV that a block computes; with a head dimension of 256 two blocks share the work,
// since the accumulators of one would not fit the registers.
template <int HeadDim, int M, int Warps, int Cols> struct BackwardTiles : AttentionTiles<HeadDim, M, Warps, Cols> {
    enum { OUT = HeadDim < 128 ? HeadDim : 128, PARTS = HeadDim / OUT, ALL_KEYS = 0 };
};
template <int HD> struct Backward;
template <> struct Backward<32> : BackwardTiles<32, 2, 4, 64> {};
template <> struct Backward<64> : BackwardTiles<64, 1, 4, 64> {};
template <> struct Backward<128> : BackwardTiles<128, 1, FP32 ? 2 : 4, 32> {};
template <> struct Backward<256> : BackwardTiles<256, 1, FP32 ? 1 : 2, FP32 ? 16 : 32> {};

// AllKeys: a block owns all keys of a head, and so can sum dQ too. Five products in place of seven, but fewer blocks.
template <typename Tiles, bool AllKeys> struct WideBackward : WideWarp<Tiles> {
    enum { COLS = 64, ALL_KEYS = AllKeys };
};

// What the dK, dV kernel needs to know of each query of a tile, in the order in which a lane holds the
// columns of an Acc.
struct QueryStats {
    float *lse; // times log2(e); infinity, which makes p = 0, after the last query
    float *d;
    int *doc; // first position of the query's document
};

template <typename Tiles> constexpr size_t query_shared() {
    return tile_bytes<Tiles>(2 * Tiles::ROWS + 4 * Tiles::COLS);
}
template <typename Tiles> constexpr size_t key_shared() {
    return query_shared<Tiles>() + 2 * 3 * sizeof(float) * Tiles::COLS;
}

// ---- D

// A group of LANES lanes for each of ROWS_EACH rows (token and head) of HD elements.
enum { D_THREADS = 128, D_ROWS = 4 };

// One lane does as 32 do, so that it adds in their order.
template <int LANES>
__global__ void __launch_bounds__(D_THREADS)
    attention_d_kernel(float *d, const floatX *dout, const floatX *out, QkvLayout layout, long rows) {
    constexpr int PARTS = LANES == 1 ? 32 : 1;
    const int groups = D_THREADS / LANES, lane = (int)threadIdx.x % LANES;
    const long row0 = (long)blockIdx.x * groups * D_ROWS + threadIdx.x / LANES;
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

// ---- dK, dV

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

template <typename Scores>
__device__ __forceinline__ void load_query_stats(const QueryStats &stats, const float *lse, const float *d,
                                                 const int *doc_start, int query0, int T) {
    for (int i = (int)threadIdx.x; i < Held<Scores>::COLUMNS; i += (int)blockDim.x) {
        int query = query0 + Held<Scores>::listed(i);
        stats.lse[i] = query < T ? lse[query] * LOG2E : INFINITY;
        stats.d[i] = query < T ? d[query] : 0.0f;
        stats.doc[i] = doc_start[min(query, T - 1)];
    }
}

template <typename Scores>
__device__ __forceinline__ void softmax_gradients(Scores &p, Scores &ds, ByColumn lse, ByColumn d, float scale) {
    using Of = Held<Scores>;
#pragma unroll
    for (int r = 0; r < Of::ROWS; r++) softmax_gradient(Of::row(p, r, 0), Of::row(ds, r, 0), lse, d, scale);
}

// Gradients of the keys and values of one tile, and what they add to those of the queries if dq sums these.
template <typename Tiles, bool EXCLUDES, typename DqSums>
__device__ __forceinline__ void
key_tile_gradients(floatX *dqkv, DqSums dq, floatX *shared, const floatX *dout, const floatX *qkv, const float *lse,
                   const float *d, AttentionMask mask, QkvLayout layout, AttentionBlock block, int col0, float scale) {
    constexpr int HD = Tiles::HD, M = Tiles::M, ROWS = Tiles::ROWS, COLS = Tiles::COLS, THREADS = Tiles::THREADS;
    using Warp = typename Tiles::Warp;
    using Tile = typename Warp::template Tile<floatX, HD>;
    using Scores = typename Warp::template Acc<M, COLS>;
    const Tile k_tile = {shared}, v_tile = {shared + ROWS * HD};
    // two buffers, each with a tile of queries (which = 0) and one of dout (1)
    auto query_tile = [=](int step, int which) {
        return Tile{shared + (2 * ROWS + (2 * (step & 1) + which) * COLS) * HD};
    };
    auto query_stats = [=](int step) {
        float *start = (float *)(shared + (2 * ROWS + 4 * COLS) * HD) + (step & 1) * 3 * COLS;
        return QueryStats{start, start + COLS, (int *)(start + 2 * COLS)};
    };

    const int T = layout.T, stride = layout.qkv_stride(), group = layout.NH / layout.NKV;
    const int key0 = block.tile * ROWS, key_last = min(key0 + ROWS, T) - 1;
    const size_t keys = layout.key(block.b, block.head, key0), values = layout.value(block.b, block.head, key0);
    const int *doc_start = mask.doc_start + (size_t)block.b * T;
    const int *excluded = EXCLUDES ? mask.excluded + 2 * (size_t)block.b * T : nullptr;

    // steps: for each query head of the group, the tiles of queries that see one of our keys
    const int first_tile = key0 / COLS, end_tile = ceil_div(queries_end(doc_start, key_last, T), COLS);
    const int tiles_each = end_tile - first_tile, steps = group * tiles_each;
    auto load_queries = [&](int step) {
        const int head = block.head * group + step / tiles_each, query0 = (first_tile + step % tiles_each) * COLS;
        load_tile_async<COLS, THREADS>(query_tile(step, 0), qkv + layout.query(block.b, head, query0), stride,
                                       T - query0, layout.HD);
        load_tile_async<COLS, THREADS>(query_tile(step, 1), dout + layout.output(block.b, head, query0),
                                       layout.out_stride(), T - query0, layout.HD);
        cp_async_commit();
        const size_t row = layout.stat(block.b, head, 0);
        load_query_stats<Scores>(query_stats(step), lse + row, d + row, doc_start, query0, T);
    };
    load_tile_async<ROWS, THREADS>(k_tile, qkv + keys, stride, T - key0, layout.HD);
    load_tile_async<ROWS, THREADS>(v_tile, qkv + values, stride, T - key0, layout.HD);
    load_queries(0);

    const int warp_row = (int)threadIdx.x / 32 * 16 * M, warp_key0 = key0 + warp_row;
    const bool active = warp_key0 < T;
    const int warp_end = min(warp_key0 + 16 * M, T);
    typename Warp::template Acc<M, Tiles::OUT> dk, dv;
    zero_all(dk);
    zero_all(dv);

    for (int step = 0; step < steps; step++) {
        cp_async_wait<0>();
        __syncthreads(); // this tile is there for all, and nobody reads the other buffer any more
        if (step + 1 < steps) load_queries(step + 1);

        const QueryStats stats = query_stats(step); // the first and last column stand first and last in it too
        const int query0 = (first_tile + step % tiles_each) * COLS;
        const QuerySpan span = {query0, min(query0 + COLS, T) - 1, stats.doc[0], stats.doc[COLS - 1]};
        if (!active || span.sees_none(warp_key0, warp_end)) continue;
        const SharedExclusion exclusion =
            EXCLUDES ? tile_exclusion<Warp::LANES, COLS>(excluded, query0, T) : SharedExclusion{};
        if (EXCLUDES && exclusion.has_all(warp_key0, warp_end)) continue;
        Scores p, ds;
        typename Warp::template Left<floatX, M, HD> k, v;
        load_rows(k, k_tile, warp_row);
        load_rows(v, v_tile, warp_row);
        product_nt(p, k, query_tile(step, 0), ds, v, query_tile(step, 1));
        const int first_stat = Held<Scores>::first_listed();
        if (!span.sees_all(warp_key0, warp_end)) mask_keys_transposed(p, stats.doc + first_stat, warp_key0, query0);
        if (EXCLUDES && exclusion.has_any(warp_key0, warp_end))
            exclude_keys_transposed(p, excluded, warp_key0, query0, T);
        softmax_gradients(p, ds, ByColumn{stats.lse + first_stat}, ByColumn{stats.d + first_stat}, scale);
        typename Warp::template Left<floatX, M, COLS> p_left, ds_left;
        left_from_acc(p_left, p);
        left_from_acc(ds_left, ds);
        multiply_nn(dv, p_left, query_tile(step, 1), dk, ds_left, query_tile(step, 0), col0);
        dq.add(step / tiles_each, query0, ds_left, k_tile, col0);
    }
    if (!active) return;
    store_gradient<Warp::LANES>(dqkv + keys + col0, stride, k_tile, dk, warp_row, T - key0, layout.HD - col0,
                                fast_divide(scale, LOG2E));
    store_gradient<Warp::LANES>(dqkv + values + col0, stride, v_tile, dv, warp_row, T - key0, layout.HD - col0, 1.0f);
}

template <typename Tiles, bool EXCLUDES>
__global__ void __launch_bounds__(Tiles::THREADS)
    attention_dkv_kernel(floatX *dqkv, const floatX *dout, const floatX *qkv, const float *lse, const float *d,
                         AttentionMask mask, QkvLayout layout, int tiles, float scale) {
    SHARED_DYNAMIC(floatX, shared);
    const int col0 = (int)(blockIdx.x % Tiles::PARTS) * Tiles::OUT;
    AttentionBlock block(blockIdx.x / Tiles::PARTS, Tiles::ALL_KEYS ? 1 : tiles, layout.NKV, false);
    if constexpr (Tiles::ALL_KEYS) {
        const GroupDqSums<Tiles> dq = {(float *)((char *)shared + key_shared<Tiles>()),
                                       GroupDqSums<Tiles>::padded(layout.T)};
        dq.clear(layout);
        for (; block.tile < tiles; block.tile++)
            key_tile_gradients<Tiles, EXCLUDES>(dqkv, dq, shared, dout, qkv, lse, d, mask, layout, block, col0, scale);
        dq.store(dqkv, layout, block, col0, fast_divide(scale, LOG2E));
    } else {
        key_tile_gradients<Tiles, EXCLUDES>(dqkv, NoDqSums{}, shared, dout, qkv, lse, d, mask, layout, block, col0,
                                            scale);
    }
}

// ---- dQ

template <int R>
__device__ __forceinline__ void load_row_stats(float (&row_lse)[R], float (&row_d)[R], const float *lse, const float *d,
                                               const int (&query)[R]) {
#pragma unroll
    for (int r = 0; r < R; r++) {
        row_lse[r] = lse[query[r]] * LOG2E;
        row_d[r] = d[query[r]];
    }
}

template <typename Tiles, bool EXCLUDES>
__global__ void __launch_bounds__(Tiles::THREADS)
    attention_dq_kernel(floatX *dqkv, const floatX *dout, const floatX *qkv, const float *lse, const float *d,
                        AttentionMask mask, QkvLayout layout, int tiles, float scale) {
    constexpr int HD = Tiles::HD, M = Tiles::M, ROWS = Tiles::ROWS, COLS = Tiles::COLS, THREADS = Tiles::THREADS;
    constexpr bool KEEP = HD <= 128; // the rows' fragments stay in registers
    using Warp = typename Tiles::Warp;
    using Tile = typename Warp::template Tile<floatX, HD>;
    using Scores = typename Warp::template Acc<M, COLS>;
    SHARED_DYNAMIC(floatX, shared);
    const Tile q_tile = {shared}, dout_tile = {shared + ROWS * HD};
    auto key_tile = [=](int tile, int which) { // keys (0), values (1), in two buffers
        return Tile{shared + (2 * ROWS + (2 * (tile & 1) + which) * COLS) * HD};
    };

    const AttentionBlock block(blockIdx.x, tiles, layout.NH, true);
    const int T = layout.T, kv_head = layout.kv_head(block.head), stride = layout.qkv_stride();
    const int row0 = block.tile * ROWS, last_row = min(row0 + ROWS, T) - 1;
    const size_t queries = layout.query(block.b, block.head, row0);
    const int *doc_start = mask.doc_start + (size_t)block.b * T;
    const int *excluded = EXCLUDES ? mask.excluded + 2 * (size_t)block.b * T : nullptr;
    lse += layout.stat(block.b, block.head, 0);
    d += layout.stat(block.b, block.head, 0);

    auto load_keys = [&](int tile) {
        const int key0 = tile * COLS;
        load_tile_async<COLS, THREADS>(key_tile(tile, 0), qkv + layout.key(block.b, kv_head, key0), stride, T - key0,
                                       layout.HD);
        load_tile_async<COLS, THREADS>(key_tile(tile, 1), qkv + layout.value(block.b, kv_head, key0), stride, T - key0,
                                       layout.HD);
        cp_async_commit();
    };
    const int first_tile = doc_start[row0] / COLS, last_tile = last_row / COLS;
    load_tile_async<ROWS, THREADS>(q_tile, qkv + queries, stride, T - row0, layout.HD);
    load_tile_async<ROWS, THREADS>(dout_tile, dout + layout.output(block.b, block.head, row0), layout.out_stride(),
                                   T - row0, layout.HD);
    load_keys(first_tile);

    const int warp_row = (int)threadIdx.x / 32 * 16 * M, warp_row0 = row0 + warp_row;
    const bool active = warp_row0 < T;
    const int warp_last = min(warp_row0 + 16 * M, T) - 1;
    const QuerySpan span = {warp_row0, warp_last, doc_start[min(warp_row0, T - 1)], doc_start[warp_last]};
    const HeldQueries<Scores> rows(doc_start, warp_row0, T); // those beyond T are not stored
    float row_lse[rows.ROWS], row_d[rows.ROWS];
    load_row_stats(row_lse, row_d, lse, d, rows.query);
    const SharedExclusion exclusion =
        EXCLUDES ? shared_exclusion<Warp::LANES>(excluded, rows.query) : SharedExclusion{};
    typename Warp::template Left<floatX, M, HD> q, dout_left;
    typename Warp::template Acc<M, HD> dq;
    zero_all(dq);

    for (int tile = first_tile; tile <= last_tile; tile++) {
        cp_async_wait<0>();
        __syncthreads(); // this tile is there for all, and nobody reads the other buffer any more
        if (tile < last_tile) load_keys(tile + 1);
        if (KEEP && tile == first_tile) {
            load_rows(q, q_tile, warp_row);
            load_rows(dout_left, dout_tile, warp_row);
        }
        const int key0 = tile * COLS, key_end = key0 + COLS;
        if (!active || span.sees_none(key0, key_end)) continue;
        if (EXCLUDES && exclusion.has_all(key0, key_end)) continue;
        Scores p, ds;
        if (KEEP) {
            product_nt(p, q, key_tile(tile, 0), ds, dout_left, key_tile(tile, 1));
        } else {
            load_rows(q, q_tile, warp_row);
            product_nt(p, q, key_tile(tile, 0));
            load_rows(dout_left, dout_tile, warp_row);
            product_nt(ds, dout_left, key_tile(tile, 1));
        }
        if (!span.sees_all(key0, key_end)) mask_keys(p, rows, key0);
        if (EXCLUDES && exclusion.has_any(key0, key_end)) exclude_keys(p, rows, excluded, key0);
#pragma unroll
        for (int r = 0; r < rows.ROWS; r++)
            softmax_gradient(Held<Scores>::row(p, r, 0), Held<Scores>::row(ds, r, 0), SameForAll{row_lse[r]},
                             SameForAll{row_d[r]}, scale);
        typename Warp::template Left<floatX, M, COLS> ds_left;
        left_from_acc(ds_left, ds);
        multiply_nn(dq, ds_left, key_tile(tile, 0), 0);
    }
    if (active)
        store_gradient<Warp::LANES>(dqkv + queries, stride, q_tile, dq, warp_row, T - row0, layout.HD,
                                    fast_divide(scale, LOG2E));
}

template <typename Tiles, bool EXCLUDES>
void backward(floatX *dqkv, float *d, const floatX *dout, const floatX *out, const floatX *qkv, const float *lse,
              AttentionMask mask, QkvLayout layout, cudaStream_t stream) {
    const float scale = layout.log2_scale();
    const int tiles = ceil_div(layout.T, (int)Tiles::ROWS);

    constexpr int PARTS = Tiles::HD / VEC < 32 ? Tiles::HD / VEC : 32;
    constexpr int LANES = Tiles::Warp::LANES < PARTS ? Tiles::Warp::LANES : PARTS, ROWS = D_THREADS / LANES * D_ROWS;
    const long rows = (long)layout.B * layout.T * layout.NH;
    const dim3 d_blocks((unsigned)ceil_div(rows, (long)ROWS));
    if constexpr (LANES == 1)
        launch_pointwise(attention_d_kernel<1>, d_blocks, dim3(D_THREADS), stream, d, dout, out, layout, rows);
    else
        launch((attention_d_kernel<LANES>), d_blocks, dim3(D_THREADS), 0, stream, d, dout, out, layout, rows);

    const unsigned groups = (unsigned)Tiles::PARTS * (unsigned)layout.NKV * (unsigned)layout.B;
    if constexpr (Tiles::ALL_KEYS)
        return launch((attention_dkv_kernel<Tiles, EXCLUDES>), dim3(groups), dim3(Tiles::THREADS),
                      key_shared<Tiles>() + GroupDqSums<Tiles>::bytes(layout), stream, dqkv, dout, qkv, lse, d, mask,
                      layout, tiles, scale);
    launch((attention_dkv_kernel<Tiles, EXCLUDES>), dim3(groups * (unsigned)tiles), dim3(Tiles::THREADS),
           key_shared<Tiles>(), stream, dqkv, dout, qkv, lse, d, mask, layout, tiles, scale);
    launch((attention_dq_kernel<Tiles, EXCLUDES>), dim3((unsigned)tiles * (unsigned)layout.NH * (unsigned)layout.B),
           dim3(Tiles::THREADS), query_shared<Tiles>(), stream, dqkv, dout, qkv, lse, d, mask, layout, tiles, scale);
}

template <int HD, bool EXCLUDES>
void backward_for(floatX *dqkv, float *d, const floatX *dout, const floatX *out, const floatX *qkv, const float *lse,
                  AttentionMask mask, QkvLayout layout, cudaStream_t stream) {
    using Tiles = Backward<HD>;
    static_assert(key_shared<Tiles>() <= SHARED_LIMIT, "shared memory of sm_89");
    if constexpr (HAS_WIDE_WARPS) {
        const long groups = (long)layout.B * layout.NKV;
        if (wide_warps())
            return (fill_cores(groups) ? backward<WideBackward<Tiles, true>, EXCLUDES>
                                       : backward<WideBackward<Tiles, false>, EXCLUDES>)(dqkv, d, dout, out, qkv, lse,
                                                                                         mask, layout, stream);
    }
    backward<Tiles, EXCLUDES>(dqkv, d, dout, out, qkv, lse, mask, layout, stream);
}

} // namespace

extern "C" void attention_backward(floatX *dqkv, float *scratch, const floatX *dout, const floatX *out,
                                   const floatX *qkv, const float *lse, AttentionMask mask, AttentionShape shape,
                                   cudaStream_t stream) {
    assert(are_aligned(16, dqkv, dout, out, qkv));
    const QkvLayout layout(shape);
#define BACKWARD(D)                                                                                                    \
    (mask.excluded ? backward_for<D, true> : backward_for<D, false>)(dqkv, scratch, dout, out, qkv, lse, mask, layout, \
                                                                     stream)
    ATTENTION_DISPATCH(shape.HD, BACKWARD);
#undef BACKWARD
}
