// Parts of attention's backward pass: gradients of scores, how those of queries, keys and values leave, and sums of those of
// queries where a block has all keys.
#ifndef LLMC_KERNELS_ATTENTION_GRADIENTS_H
#define LLMC_KERNELS_ATTENTION_GRADIENTS_H

#include <string.h>

#include "kernels/attention_tiles.h"

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

// to = acc * factor, by way of the rows of `staging` that the warp has read for the last time.
template <int LANES, typename Tile, typename Result>
__device__ __forceinline__ void store_gradient(floatX *to, size_t stride, Tile staging, Result &acc, int warp_row,
                                               int valid_rows, int valid_cols, float factor) {
    using Of = Held<Result>;
#pragma unroll
    for (int r = 0; r < Of::ROWS; r++) scale_row(acc, r, factor);
    store_acc(staging, warp_row, acc);
    __syncwarp();
    store_rows<Of::WARP_ROWS, LANES>(to + (size_t)warp_row * stride, stride, staging, warp_row, valid_rows - warp_row,
                                     min(valid_cols, (int)Of::COLUMNS));
}

// ---- dQ beside dK and dV

// Where a kernel of its own computes dQ.
struct NoDqSums {
    template <typename... Any> __device__ __forceinline__ void add(Any...) const {}
};

// dQ of the query heads of a group, in memory of the block, in fp32: [heads][T, filled up to whole tiles][OUT].
template <typename Tiles> struct GroupDqSums {
    enum { OUT = Tiles::OUT }; // columns
    float *sums;
    int queries; // with the filling

    static __host__ __device__ int padded(int T) { return ceil_div(T, Tiles::COLS) * Tiles::COLS; }
    static size_t bytes(QkvLayout layout) {
        return sizeof(float) * OUT * (size_t)(layout.NH / layout.NKV) * (size_t)padded(layout.T);
    }

    void clear(QkvLayout layout) const { memset(sums, 0, bytes(layout)); }
    template <typename Left, typename Tile>
    __device__ void add(int head, int query0, const Left &ds, Tile k_tile, int col0) const {
        multiply_tn(sums + ((size_t)head * queries + query0) * OUT, OUT, ds, k_tile, col0);
    }
    __device__ void store(floatX *dqkv, QkvLayout layout, AttentionBlock block, int col0, float factor) const {
        const int group = layout.NH / layout.NKV, cols = min((int)OUT, layout.HD - col0);
        for (int head = 0; head < group; head++)
            for (int t = 0; t < layout.T; t++) {
                const float *from = sums + ((size_t)head * queries + t) * OUT;
                floatX *to = dqkv + layout.query(block.b, block.head * group + head, t) + col0;
                for (int col = 0; col < cols; col += VEC) {
                    float scaled[VEC];
                    EACH_ELEMENT
                    for (int i = 0; i < VEC; i++) scaled[i] = from[col + i] * factor;
                    store_vec(to + col, scaled);
                }
            }
    }
};

#endif
