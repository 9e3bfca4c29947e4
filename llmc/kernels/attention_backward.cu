// Attention, backward. With P = softmax(S scale), S = Q K^T, O = P V and D_i = sum_d dO_id O_id:
//   dV = P^T dO,   dP = dO V^T,   dS = P * (dP - D),   dQ = scale dS K,   dK = scale dS^T Q
// P is recomputed from S and the log-sum-exp that the forward pass kept: p = exp(s scale - lse).
//
// Three kernels, none with atomics: D; dK and dV by tiles of keys, which walk over the queries that see them,
// of all query heads of the group; dQ by tiles of queries, which walk over the keys they see.
#include "kernels/attention.h"
#include "kernels/attention_tiles.h"

namespace {

constexpr bool FP32 = sizeof(floatX) == 4;

// OUT: columns of dK and dV that a block computes; with a head dimension of 256 two blocks share the work,
// since the accumulators of one would not fit the registers.
template <int HeadDim, int M, int Warps, int Cols> struct BackwardTiles : AttentionTiles<HeadDim, M, Warps, Cols> {
    enum { OUT = HeadDim < 128 ? HeadDim : 128, PARTS = HeadDim / OUT };
};
template <int HD> struct Backward;
template <> struct Backward<32> : BackwardTiles<32, 2, 4, 64> {};
template <> struct Backward<64> : BackwardTiles<64, 1, 4, 64> {};
template <> struct Backward<128> : BackwardTiles<128, 1, FP32 ? 2 : 4, 32> {};
template <> struct Backward<256> : BackwardTiles<256, 1, FP32 ? 1 : 2, FP32 ? 16 : 32> {};

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

template <int LANES>
__global__ void __launch_bounds__(D_THREADS)
    attention_d_kernel(float *d, const floatX *dout, const floatX *out, QkvLayout layout, long rows) {
    const int groups = D_THREADS / LANES, lane = (int)threadIdx.x % LANES;
    const long row0 = (long)blockIdx.x * groups * D_ROWS + threadIdx.x / LANES;
    float sum[D_ROWS];
#pragma unroll
    for (int r = 0; r < D_ROWS; r++) {
        const long row = row0 + r * groups;
        sum[r] = 0.0f;
        if (row >= rows) continue;
        for (int col = lane * VEC; col < layout.HD; col += LANES * VEC) {
            float a[VEC], b[VEC];
            load_vec(a, dout + row * layout.HD + col);
            load_vec(b, out + row * layout.HD + col);
            EACH_ELEMENT
            for (int i = 0; i < VEC; i++) a[i] *= b[i];
            sum[r] += sum_vec(a);
        }
    }
    group_sum<LANES>(sum);
#pragma unroll
    for (int r = 0; r < D_ROWS; r++) {
        const long row = row0 + r * groups; // row = (b * T + t) * NH + head
        if (lane != 0 || row >= rows) continue;
        const long token = row / layout.NH;
        d[layout.stat((int)(token / layout.T), (int)(row % layout.NH), (int)(token % layout.T))] = sum[r];
    }
}

// ---- what both kernels share

// A statistic of the row, or of each column, of an accumulator.
struct SameForAll {
    float value;
    __device__ __forceinline__ float operator[](int) const { return value; }
};
struct ByColumn {
    const float *values;
    __device__ __forceinline__ float operator[](int e) const { return values[e]; }
};

// s := p = 2^(s scale - lse), and dp := ds = p (dp - D).
template <int N, typename Stat>
__device__ __forceinline__ void softmax_gradient(float (&s)[N], float (&dp)[N], Stat lse, Stat d, float scale) {
    EACH_ELEMENT
    for (int e = 0; e < N; e++) {
        s[e] = fast_exp2(s[e] * scale - lse[e]);
        dp[e] = s[e] * (dp[e] - d[e]);
    }
}

template <int N, int M> __device__ __forceinline__ void zero_all(Acc<N> (&acc)[M]) {
#pragma unroll
    for (int m = 0; m < M; m++) acc_zero(acc[m]);
}

template <int N, int M> __device__ __forceinline__ void zero_all(Acc<N> (&first)[M], Acc<N> (&second)[M]) {
    zero_all(first);
    zero_all(second);
}

template <int N, int M>
__device__ __forceinline__ void all_frags_from_acc(FragA<floatX, N> (&frags)[M], const Acc<N> (&acc)[M]) {
#pragma unroll
    for (int m = 0; m < M; m++) frag_from_acc(frags[m], acc[m]);
}

// One gradient out through the warp's own rows of a tile that is not needed any more: 16-byte stores.
template <int M, int N, int COLS>
__device__ __forceinline__ void store_gradient(floatX *to, size_t stride, SharedTile<floatX, COLS> staging,
                                               Acc<N> (&acc)[M], int warp_row, int valid_rows, int valid_cols,
                                               float factor) {
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int b = 0; b < Acc<N>::BLOCKS; b++)
#pragma unroll
            for (int h = 0; h < 2; h++) EACH_ELEMENT
        for (int e = 0; e < 2 * Acc<N>::W; e++) acc[m].c[b][h][e] *= factor;
        store_acc(staging, warp_row + 16 * m, acc[m]);
    }
    __syncwarp();
    store_rows<16 * M>(to + (size_t)warp_row * stride, stride, staging, warp_row, valid_rows - warp_row,
                       min(valid_cols, N));
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
template <int COLS> __device__ __forceinline__ SharedExclusion tile_exclusion(const int *excluded, int query0, int T) {
    int query[ceil_div(COLS, 32)];
#pragma unroll
    for (int i = 0; i < ceil_div(COLS, 32); i++) query[i] = min(query0 + (32 * i + lane_id()) % COLS, T - 1);
    return shared_exclusion(excluded, query);
}

template <int COLS>
__device__ __forceinline__ void load_query_stats(const QueryStats &stats, const float *lse, const float *d,
                                                 const int *doc_start, int query0, int T) {
    constexpr int E = 2 * Acc<COLS>::W;
    for (int i = (int)threadIdx.x; i < COLS; i += (int)blockDim.x) {
        int query = query0 + Acc<COLS>::column(i / E, 0, i % E);
        stats.lse[i] = query < T ? lse[query] * LOG2E : INFINITY;
        stats.d[i] = query < T ? d[query] : 0.0f;
        stats.doc[i] = doc_start[min(query, T - 1)];
    }
}

template <int N, int M>
__device__ __forceinline__ void softmax_gradients(Acc<N> (&p)[M], Acc<N> (&ds)[M], ByColumn lse, ByColumn d,
                                                  float scale) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) softmax_gradient(p[m].c[0][h], ds[m].c[0][h], lse, d, scale);
}

template <typename Tiles, bool EXCLUDES>
__global__ void __launch_bounds__(Tiles::THREADS)
    attention_dkv_kernel(floatX *dqkv, const floatX *dout, const floatX *qkv, const float *lse, const float *d,
                         AttentionMask mask, QkvLayout layout, int tiles, float scale) {
    constexpr int HD = Tiles::HD, M = Tiles::M, ROWS = Tiles::ROWS, COLS = Tiles::COLS, THREADS = Tiles::THREADS,
                  OUT = Tiles::OUT;
    constexpr int E = 2 * Acc<COLS>::W;
    SHARED_DYNAMIC(floatX, shared);
    const SharedTile<floatX, HD> k_tile = {shared}, v_tile = {shared + ROWS * HD};
    // two buffers, each with a tile of queries (which = 0) and one of dout (1)
    auto query_tile = [=](int step, int which) {
        return SharedTile<floatX, HD>{shared + (2 * ROWS + (2 * (step & 1) + which) * COLS) * HD};
    };
    auto query_stats = [=](int step) {
        float *start = (float *)(shared + (2 * ROWS + 4 * COLS) * HD) + (step & 1) * 3 * COLS;
        return QueryStats{start, start + COLS, (int *)(start + 2 * COLS)};
    };

    const int part = (int)(blockIdx.x % Tiles::PARTS), col0 = part * OUT;
    const AttentionBlock block(blockIdx.x / Tiles::PARTS, tiles, layout.NKV, false);
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
        load_query_stats<COLS>(query_stats(step), lse + row, d + row, doc_start, query0, T);
    };
    load_tile_async<ROWS, THREADS>(k_tile, qkv + keys, stride, T - key0, layout.HD);
    load_tile_async<ROWS, THREADS>(v_tile, qkv + values, stride, T - key0, layout.HD);
    load_queries(0);

    const int warp_row = (int)threadIdx.x / 32 * 16 * M, warp_key0 = key0 + warp_row;
    const bool active = warp_key0 < T;
    const int warp_end = min(warp_key0 + 16 * M, T);
    Acc<OUT> dk[M], dv[M];
    zero_all(dk, dv);

    for (int step = 0; step < steps; step++) {
        cp_async_wait<0>();
        __syncthreads(); // this tile is there for all, and nobody reads the other buffer any more
        if (step + 1 < steps) load_queries(step + 1);

        const QueryStats stats = query_stats(step); // the first and last column stand first and last in it too
        const int query0 = (first_tile + step % tiles_each) * COLS;
        const QuerySpan span = {query0, min(query0 + COLS, T) - 1, stats.doc[0], stats.doc[COLS - 1]};
        if (!active || span.sees_none(warp_key0, warp_end)) continue;
        const SharedExclusion exclusion = EXCLUDES ? tile_exclusion<COLS>(excluded, query0, T) : SharedExclusion{};
        if (EXCLUDES && exclusion.has_all(warp_key0, warp_end)) continue;
        Acc<COLS> p[M], ds[M];
        zero_all(p, ds);
        FragA<floatX, HD> k[M], v[M];
        load_rows(k, k_tile, warp_row);
        load_rows(v, v_tile, warp_row);
        multiply_nt(p, k, query_tile(step, 0), ds, v, query_tile(step, 1));
        const int first_stat = lane_id() % 4 * E;
        if (!span.sees_all(warp_key0, warp_end)) mask_keys_transposed(p, stats.doc + first_stat, warp_key0, query0);
        if (EXCLUDES && exclusion.has_any(warp_key0, warp_end))
            exclude_keys_transposed(p, excluded, warp_key0, query0, T);
        softmax_gradients(p, ds, ByColumn{stats.lse + first_stat}, ByColumn{stats.d + first_stat}, scale);
        FragA<floatX, COLS> p_frag[M], ds_frag[M];
        all_frags_from_acc(p_frag, p);
        all_frags_from_acc(ds_frag, ds);
        multiply_nn(dv, p_frag, query_tile(step, 1), dk, ds_frag, query_tile(step, 0), col0);
    }
    if (!active) return;
    store_gradient(dqkv + keys + col0, stride, k_tile, dk, warp_row, T - key0, layout.HD - col0,
                   fast_divide(scale, LOG2E));
    store_gradient(dqkv + values + col0, stride, v_tile, dv, warp_row, T - key0, layout.HD - col0, 1.0f);
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
    SHARED_DYNAMIC(floatX, shared);
    const SharedTile<floatX, HD> q_tile = {shared}, dout_tile = {shared + ROWS * HD};
    auto key_tile = [=](int tile, int which) { // keys (0), values (1), in two buffers
        return SharedTile<floatX, HD>{shared + (2 * ROWS + (2 * (tile & 1) + which) * COLS) * HD};
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
    const LaneQueries<M> rows(doc_start, warp_row0, T); // those beyond T are not stored
    float row_lse[2 * M], row_d[2 * M];
    load_row_stats(row_lse, row_d, lse, d, rows.query);
    const SharedExclusion exclusion = EXCLUDES ? shared_exclusion(excluded, rows.query) : SharedExclusion{};
    FragA<floatX, HD> q[M], dout_frag[M];
    Acc<HD> dq[M];
    zero_all(dq);

    for (int tile = first_tile; tile <= last_tile; tile++) {
        cp_async_wait<0>();
        __syncthreads(); // this tile is there for all, and nobody reads the other buffer any more
        if (tile < last_tile) load_keys(tile + 1);
        if (KEEP && tile == first_tile) {
            load_rows(q, q_tile, warp_row);
            load_rows(dout_frag, dout_tile, warp_row);
        }
        const int key0 = tile * COLS, key_end = key0 + COLS;
        if (!active || span.sees_none(key0, key_end)) continue;
        if (EXCLUDES && exclusion.has_all(key0, key_end)) continue;
        Acc<COLS> p[M], ds[M];
        zero_all(p, ds);
        if (KEEP) {
            multiply_nt(p, q, key_tile(tile, 0), ds, dout_frag, key_tile(tile, 1));
        } else {
            load_rows(q, q_tile, warp_row);
            multiply_nt(p, q, key_tile(tile, 0));
            load_rows(dout_frag, dout_tile, warp_row);
            multiply_nt(ds, dout_frag, key_tile(tile, 1));
        }
        if (!span.sees_all(key0, key_end)) mask_keys(p, rows, key0);
        if (EXCLUDES && exclusion.has_any(key0, key_end)) exclude_keys(p, rows, excluded, key0);
#pragma unroll
        for (int r = 0; r < 2 * M; r++)
            softmax_gradient(p[r / 2].c[0][r % 2], ds[r / 2].c[0][r % 2], SameForAll{row_lse[r]}, SameForAll{row_d[r]},
                             scale);
        FragA<floatX, COLS> ds_frag[M];
        all_frags_from_acc(ds_frag, ds);
        multiply_nn(dq, ds_frag, key_tile(tile, 0), 0);
    }
    if (active)
        store_gradient(dqkv + queries, stride, q_tile, dq, warp_row, T - row0, layout.HD, fast_divide(scale, LOG2E));
}

template <typename Tiles, bool EXCLUDES>
void backward(floatX *dqkv, float *d, const floatX *dout, const floatX *out, const floatX *qkv, const float *lse,
              AttentionMask mask, QkvLayout layout, cudaStream_t stream) {
    const float scale = layout.log2_scale();
    const int tiles = ceil_div(layout.T, (int)Tiles::ROWS);

    constexpr int LANES = Tiles::HD / VEC < 32 ? Tiles::HD / VEC : 32;
    const long rows = (long)layout.B * layout.T * layout.NH;
    const long rows_a_block = D_THREADS / LANES * D_ROWS;
    launch((attention_d_kernel<LANES>), dim3((unsigned)ceil_div(rows, rows_a_block)), dim3(D_THREADS), 0, stream, d,
           dout, out, layout, rows);
    launch((attention_dkv_kernel<Tiles, EXCLUDES>),
           dim3((unsigned)tiles * Tiles::PARTS * (unsigned)layout.NKV * (unsigned)layout.B), dim3(Tiles::THREADS),
           key_shared<Tiles>(), stream, dqkv, dout, qkv, lse, d, mask, layout, tiles, scale);
    launch((attention_dq_kernel<Tiles, EXCLUDES>), dim3((unsigned)tiles * (unsigned)layout.NH * (unsigned)layout.B),
           dim3(Tiles::THREADS), query_shared<Tiles>(), stream, dqkv, dout, qkv, lse, d, mask, layout, tiles, scale);
}

template <int HD, bool EXCLUDES>
void backward_for(floatX *dqkv, float *d, const floatX *dout, const floatX *out, const floatX *qkv, const float *lse,
                  AttentionMask mask, QkvLayout layout, cudaStream_t stream) {
    using Tiles = Backward<HD>;
    static_assert(key_shared<Tiles>() <= SHARED_LIMIT, "shared memory of sm_89");
    if constexpr (HAS_WIDE_WARPS)
        if (wide_warps())
            return backward<WideWarp<Tiles>, EXCLUDES>(dqkv, d, dout, out, qkv, lse, mask, layout, stream);
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
