// Attention, forward. A block owns a tile of queries of one head and walks over the tiles of keys and values
// that any of its queries sees. For each row it keeps the running maximum m and sum l of
//   p_j = 2^((s_j - m) log2(e)/sqrt(HD)),  s = q k^T
// and the output accumulated so far, all rescaled when m grows (online softmax); at the end out = o / l and
// lse = m/sqrt(HD) + ln l.
#include "kernels/attention.h"
#include "kernels/attention_tiles.h"

namespace {

constexpr bool FP32 = sizeof(floatX) == 4;

// KEEP_Q: the fragments of the queries stay in registers; else they are loaded again for each tile of keys.
template <int HD> struct ForwardTiles;
template <> struct ForwardTiles<32> : AttentionTiles<32, 2, 4, 64> {
    enum { KEEP_Q = 1 };
};
template <> struct ForwardTiles<64> : AttentionTiles<64, 2, 4, 64> {
    enum { KEEP_Q = 0 };
};
template <> struct ForwardTiles<128> : AttentionTiles<128, 1, 4, FP32 ? 32 : 64> {
    enum { KEEP_Q = 1 };
};
template <> struct ForwardTiles<256> : AttentionTiles<256, 1, FP32 ? 2 : 4, FP32 ? 16 : 32> {
    enum { KEEP_Q = 0 };
};

template <typename Tiles> constexpr size_t forward_shared() { return tile_bytes<Tiles>(Tiles::ROWS + 4 * Tiles::COLS); }

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
                             int tiles, float scale) {
    constexpr int HD = Tiles::HD, M = Tiles::M, COLS = Tiles::COLS, THREADS = Tiles::THREADS;
    using Warp = typename Tiles::Warp;
    using Tile = typename Warp::template Tile<floatX, HD>;
    using Scores = typename Warp::template Acc<M, COLS>;
    SHARED_DYNAMIC(floatX, shared);
    Tile q_tile = {shared};
    // two buffers, each with a tile of keys (which = 0) and one of values (1)
    auto kv_tile = [=](int tile, int which) {
        return Tile{shared + (Tiles::ROWS + (2 * (tile & 1) + which) * COLS) * HD};
    };
    const AttentionBlock block(blockIdx.x, tiles, layout.NH, true);
    const int T = layout.T, kv_head = layout.kv_head(block.head), stride = layout.qkv_stride();
    const int row0 = block.tile * Tiles::ROWS, last_row = min(row0 + Tiles::ROWS, T) - 1;
    const int *doc_start = mask.doc_start + (size_t)block.b * T;
    const int *excluded = EXCLUDES ? mask.excluded + 2 * (size_t)block.b * T : nullptr;

    auto load_keys = [&](int tile) {
        int key0 = tile * COLS;
        load_tile_async<COLS, THREADS>(kv_tile(tile, 0), qkv + layout.key(block.b, kv_head, key0), stride, T - key0,
                                       layout.HD);
        load_tile_async<COLS, THREADS>(kv_tile(tile, 1), qkv + layout.value(block.b, kv_head, key0), stride, T - key0,
                                       layout.HD);
        cp_async_commit();
    };
    const int first_tile = doc_start[row0] / COLS, last_tile = last_row / COLS;
    load_tile_async<Tiles::ROWS, THREADS>(q_tile, qkv + layout.query(block.b, block.head, row0), stride, T - row0,
                                          layout.HD);
    load_keys(first_tile);

    const int warp_row = (int)threadIdx.x / 32 * 16 * M, warp_row0 = row0 + warp_row;
    const bool active = warp_row0 < T;
    const int warp_last = min(warp_row0 + 16 * M, T) - 1;
    const QuerySpan span = {warp_row0, warp_last, doc_start[min(warp_row0, T - 1)], doc_start[warp_last]};
    const HeldQueries<Scores> queries(doc_start, warp_row0, T);
    SharedExclusion exclusion = {};
    if (EXCLUDES) exclusion = shared_exclusion<Warp::LANES>(excluded, queries.query);
    RowState<Scores> rows;
    init_rows(rows);

    typename Warp::template Left<floatX, M, HD> q;
    typename Warp::template Acc<M, HD> o;
    zero_all(o);

    for (int tile = first_tile; tile <= last_tile; tile++) {
        cp_async_wait<0>();
        __syncthreads(); // this tile is there for all, and nobody reads the other buffer any more
        if (tile < last_tile) load_keys(tile + 1);
        if (tile == first_tile || !Tiles::KEEP_Q) load_rows(q, q_tile, warp_row);

        const int key0 = tile * COLS, key_end = key0 + COLS;
        if (!active || span.sees_none(key0, key_end)) continue;
        if (EXCLUDES && exclusion.has_all(key0, key_end)) continue;
        Scores s;
        product_nt(s, q, kv_tile(tile, 0));
        if (!span.sees_all(key0, key_end)) mask_keys(s, queries, key0);
        if (EXCLUDES && exclusion.has_any(key0, key_end)) exclude_keys(s, queries, excluded, key0);
        online_softmax(s, o, rows, scale);
        typename Warp::template Left<floatX, M, COLS> p;
        left_from_acc(p, s);
        multiply_nn(o, p, kv_tile(tile, 1), 0);
    }
    if (active)
        store_output<Tiles>(out + layout.output(block.b, block.head, 0), lse + layout.stat(block.b, block.head, 0),
                            q_tile, o, rows, warp_row, row0, layout, scale);
}

template <typename Tiles, bool EXCLUDES>
void forward(floatX *out, float *lse, const floatX *qkv, AttentionMask mask, QkvLayout layout, cudaStream_t stream) {
    const int tiles = ceil_div(layout.T, (int)Tiles::ROWS);
    const unsigned blocks = (unsigned)tiles * (unsigned)layout.NH * (unsigned)layout.B;
    launch((attention_forward_kernel<Tiles, EXCLUDES>), dim3(blocks), dim3(Tiles::THREADS), forward_shared<Tiles>(),
           stream, out, lse, qkv, mask, layout, tiles, layout.log2_scale());
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
