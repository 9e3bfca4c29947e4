// Attention, forward. A block owns a tile of queries of one head and walks over the tiles of keys and values
// that any of its queries sees. For each row it keeps the running maximum m and sum l of
//   p_j = 2^((s_j - m) log2(e)/sqrt(HD)),  s = q k^T
// and the output accumulated so far, all rescaled when m grows (online softmax); at the end out = o / l and
// lse = m/sqrt(HD) + ln l.
#include "kernels/attention.h"
#include "kernels/attention_tiles.h"

namespace {

constexpr bool FP32 = sizeof(floatX) == 4;

// Two row tiles a warp where accumulators leave room for them: keys and values are then read from shared memory half as often.
template <int HD> struct ForwardTiles;
template <> struct ForwardTiles<32> : AttentionTiles<32, 2, 4, 64> {};
template <> struct ForwardTiles<64> : AttentionTiles<64, 2, 4, 64> {};
template <> struct ForwardTiles<128> : AttentionTiles<128, FP32 ? 1 : 2, 4, FP32 ? 32 : 64> {};
template <> struct ForwardTiles<256> : AttentionTiles<256, 1, FP32 ? 2 : 4, FP32 ? 16 : 32> {};

// A tile of queries, one of keys and one of values.
template <typename Tiles> constexpr size_t forward_shared() { return tile_bytes<Tiles>(Tiles::ROWS + 2 * Tiles::COLS); }

// Softmax state of the rows of Scores that this thread holds.
template <typename Scores> struct RowState {
    enum { ROWS = Held<Scores>::ROWS };
    float max[ROWS];
    typename Held<Scores>::Sum sum[ROWS];
};

template <typename Scores> __device__ __forceinline__ void init_rows(RowState<Scores> &rows) {
#pragma unroll
    for (int r = 0; r < rows.ROWS; r++) {
        rows.max[r] = -INFINITY;
        rows.sum[r] = typename Held<Scores>::Sum{};
    }
}

// s := p, sums and output rescaled to the new maxima. scale: log2(e)/sqrt(HD).
template <typename Scores, typename Output>
__device__ __forceinline__ void online_softmax(Scores &s, Output &o, RowState<Scores> &rows, float scale) {
    using Of = Held<Scores>;
    static_assert(Of::BLOCKS == 1, "");
    float tile_max[Of::ROWS], correction[Of::ROWS], base[Of::ROWS];
    Of::row_maxima(tile_max, s);
    Of::share_max(tile_max);
    EACH_ELEMENT
    for (int r = 0; r < Of::ROWS; r++) {
        float next = max(rows.max[r], tile_max[r]);
        float finite = next == -INFINITY ? 0.0f : next;            // nothing seen yet: p must be 0, not NaN
        correction[r] = fast_exp2((rows.max[r] - finite) * scale); // exactly 1 where the maximum stays
        base[r] = finite * scale;
        rows.max[r] = next;
    }
#pragma unroll
    for (int r = 0; r < Of::ROWS; r++) {
        typename Of::Row &p = Of::row(s, r, 0);
        const float row_base = base[r];
        EACH_ELEMENT
        for (int e = 0; e < Of::ELEMENTS; e++) p[e] = fast_exp2(p[e] * scale - row_base);
        Of::add_row(rows.sum[r], correction[r], p);
        scale_row(o, r, correction[r]);
    }
}

// out = o / l through the warp's own rows of the query tile (16-byte stores), lse by the first lane of those that share a row.
template <typename Tiles, typename Output, typename Scores>
__device__ __forceinline__ void
store_output(floatX *out, float *lse, typename Tiles::Warp::template Tile<floatX, Tiles::HD> staging, Output &o,
             RowState<Scores> &rows, int warp_row, int row0, QkvLayout layout, float scale) {
    using Of = Held<Scores>;
    float sum[Of::ROWS];
    Of::share_sums(sum, rows.sum);
#pragma unroll
    for (int r = 0; r < Of::ROWS; r++) {
        scale_row(o, r, fast_divide(1.0f, sum[r]));
        int t = row0 + warp_row + Of::row_of(r);
        if (lane_id() % 4 == 0 && t < layout.T) lse[t] = (rows.max[r] * scale + fast_log2(sum[r])) * (1.0f / LOG2E);
    }
    store_acc(staging, warp_row, o);
    __syncwarp();
    store_rows<16 * Tiles::M, Tiles::Warp::LANES>(out + (size_t)(row0 + warp_row) * layout.out_stride(),
                                                  layout.out_stride(), staging, warp_row, layout.T - row0 - warp_row,
                                                  layout.HD);
}

template <typename Tiles, bool EXCLUDES>
__global__ void __launch_bounds__(Tiles::THREADS)
    attention_forward_kernel(floatX *out, float *lse, const floatX *qkv, AttentionMask mask, QkvLayout layout,
                             float scale) {
    constexpr int HD = Tiles::HD, M = Tiles::M, COLS = Tiles::COLS, THREADS = Tiles::THREADS;
    using Warp = typename Tiles::Warp;
    using Tile = typename Warp::template Tile<floatX, HD>;
    using Scores = typename Warp::template Acc<M, COLS>;
    SHARED_DYNAMIC(floatX, shared);
    const Tile q_tile = {shared}, key_tile = {shared + Tiles::ROWS * HD};
    const Tile value_tile = {shared + (Tiles::ROWS + COLS) * HD};
    // tiles run fastest, so that blocks at work together share K and V; the last tile first, since it sees the most keys
    const int row0 = (int)(gridDim.x - 1 - blockIdx.x) * Tiles::ROWS, head = (int)blockIdx.y, b = (int)blockIdx.z;
    const int T = layout.T, kv_head = layout.kv_head(head), stride = layout.qkv_stride();
    const int last_row = min(row0 + Tiles::ROWS, T) - 1;
    const int *doc_start = mask.doc_start + (size_t)b * T;
    const int *excluded = EXCLUDES ? mask.excluded + 2 * (size_t)b * T : nullptr;

    const floatX *keys = qkv + layout.key(b, kv_head, 0), *values = qkv + layout.value(b, kv_head, 0);
    auto load = [&](Tile to, const floatX *from, int tile) {
        const int key0 = tile * COLS;
        load_tile_async<COLS, THREADS>(to, from + (size_t)key0 * stride, stride, T - key0, layout.HD);
        cp_async_commit();
    };
    const int first_tile = doc_start[row0] / COLS, last_tile = last_row / COLS;
    load_tile_async<Tiles::ROWS, THREADS>(q_tile, qkv + layout.query(b, head, row0), stride, T - row0, layout.HD);
    load(key_tile, keys, first_tile);

    const int warp_row = same_in_warp((int)threadIdx.x / 32) * 16 * M, warp_row0 = row0 + warp_row;
    const bool active = warp_row0 < T;
    const int warp_last = min(warp_row0 + 16 * M, T) - 1;
    const QuerySpan span = {warp_row0, warp_last, doc_start[min(warp_row0, T - 1)], doc_start[warp_last]};
    const HeldQueries<Scores> queries(doc_start, warp_row0, T);
    SharedExclusion exclusion = {};
    if (EXCLUDES) {
        int query[queries.ROWS];
        queries.all_within(query);
        exclusion = shared_exclusion<Warp::LANES>(excluded, query);
    }
    RowState<Scores> rows;
    init_rows(rows);

    typename Warp::template Acc<M, HD> o;
    zero_all(o);

    for (int tile = first_tile; tile <= last_tile; tile++) {
        cp_async_wait<0>();
        __syncthreads(); // the keys are there for all, and nobody reads the values before any more
        load(value_tile, values, tile);
        const int key0 = tile * COLS, key_end = key0 + COLS;
        const bool seen = active && !span.sees_none(key0, key_end) && !(EXCLUDES && exclusion.has_all(key0, key_end));
        typename Warp::template Left<floatX, M, COLS> p;
        if (seen) {
            Scores s;
            product_rows(s, q_tile, warp_row, key_tile);
            if (!span.sees_all(key0, key_end)) mask_keys(s, queries, key0);
            if (EXCLUDES && exclusion.has_any(key0, key_end)) exclude_keys(s, queries, excluded, key0);
            online_softmax(s, o, rows, scale);
            left_from_acc(p, s);
        }
        cp_async_wait<0>();
        __syncthreads(); // the values are there for all, and nobody reads the keys any more
        if (tile < last_tile) load(key_tile, keys, tile + 1);
        if (seen) multiply_nn(o, p, value_tile, 0);
    }
    if (active)
        store_output<Tiles>(out + layout.output(b, head, 0), lse + layout.stat(b, head, 0), q_tile, o, rows, warp_row,
                            row0, layout, scale);
}

template <typename Tiles, bool EXCLUDES>
void forward(floatX *out, float *lse, const floatX *qkv, AttentionMask mask, QkvLayout layout, cudaStream_t stream) {
    const dim3 grid((unsigned)ceil_div(layout.T, (int)Tiles::ROWS), (unsigned)layout.NH, (unsigned)layout.B);
    launch((attention_forward_kernel<Tiles, EXCLUDES>), grid, dim3(Tiles::THREADS), forward_shared<Tiles>(), stream,
           out, lse, qkv, mask, layout, layout.log2_scale());
}

template <int HD, bool EXCLUDES>
void forward_for(floatX *out, float *lse, const floatX *qkv, AttentionMask mask, QkvLayout layout,
                 cudaStream_t stream) {
    using Tiles = ForwardTiles<HD>;
    static_assert(forward_shared<Tiles>() <= SHARED_LIMIT, "shared memory of sm_89");
    if constexpr (HAS_WIDE_WARPS)
        if (wide_warps()) return forward<WideWarp<Tiles>, EXCLUDES>(out, lse, qkv, mask, layout, stream);
    forward<Tiles, EXCLUDES>(out, lse, qkv, mask, layout, stream);
}

} // namespace

extern "C" void attention_forward(floatX *out, float *lse, const floatX *qkv, AttentionMask mask, AttentionShape shape,
                                  cudaStream_t stream) {
    assert(are_aligned(16, out, qkv));
    const QkvLayout layout(shape);
#define FORWARD(D) (mask.excluded ? forward_for<D, true> : forward_for<D, false>)(out, lse, qkv, mask, layout, stream)
    ATTENTION_DISPATCH(shape.HD, FORWARD);
#undef FORWARD
}
