// Parts of attention's backward pass: gradients of scores, and how those of queries, keys and values leave.
#ifndef LLMC_KERNELS_ATTENTION_GRADIENTS_H
#define LLMC_KERNELS_ATTENTION_GRADIENTS_H

#include "kernels/attention_tiles.h"

// A statistic of each column of an accumulator.
struct ByColumn {
    const float *values;
    __device__ __forceinline__ float operator[](int e) const { return values[e]; }
};

// s := p = 2^(s scale - lse), and dp := ds = p (dp - D).
template <int N>
__device__ __forceinline__ void softmax_gradient(float (&s)[N], float (&dp)[N], ByColumn lse, ByColumn d, float scale) {
    EACH_ELEMENT
    for (int e = 0; e < N; e++) {
        s[e] = fast_exp2(s[e] * scale - lse[e]);
        dp[e] = s[e] * (dp[e] - d[e]);
    }
}

// to = acc * factor, by way of rows of `staging` that nobody but the warp uses now.
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

#endif
