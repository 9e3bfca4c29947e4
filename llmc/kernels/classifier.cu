// Fused softmax and cross-entropy (classifier.h), one block a row, or one warp for four short rows.
//
// One pass finds the row's maximum m and s = sum exp(x - m) together: each thread keeps m and s for each of the VEC
// elements of its 16-byte loads, and a new x costs one exponential, e = exp(-|x - m|):
//     x <= m:  s += e            x > m:  s = s e + 1,  m = x
// Two reductions join the threads. A second pass, backwards through the row to meet what the caches still hold,
// writes the gradient. Logits are read twice and written once; the second reading is the cache's.
#include "kernels/classifier.h"

#include <float.h>

#include "device/launch.h"
#include "device/math.h"
#include "device/reduce.h"
#include "device/vec.h"

static const int MAX_THREADS = 1024;

struct RunningSum {
    float max[VEC], sum[VEC];
};

__device__ __forceinline__ void include(RunningSum &r, const float (&x)[VEC]) {
#pragma unroll
    for (int i = 0; i < VEC; i++) {
        float difference = x[i] - r.max[i];
        float e = fast_exp(-fabsf(difference));
        r.sum[i] = difference > 0.0f ? r.sum[i] * e + 1.0f : r.sum[i] + e;
        r.max[i] = difference > 0.0f ? x[i] : r.max[i];
    }
}

// The columns from `first` on; those beyond V count as -infinity.
__device__ __forceinline__ void load_masked(float (&x)[VEC], const floatX *row, int first, int V) {
    load_vec(x, row + first);
#pragma unroll
    for (int i = 0; i < VEC; i++) x[i] = first + i < V ? x[i] : -INFINITY;
}

// This thread's share of the row: packs threadIdx.x, threadIdx.x + blockDim.x, ...; the last one may be partly padding.
__device__ __forceinline__ RunningSum sum_of_thread(const floatX *row, int V) {
    RunningSum r;
#pragma unroll
    for (int i = 0; i < VEC; i++) r.max[i] = -FLT_MAX, r.sum[i] = 0.0f;
    const int full = V / VEC;
    float x[VEC];
#pragma unroll 2
    for (int pack = threadIdx.x; pack < full; pack += blockDim.x) {
        load_vec(x, row + pack * VEC);
        include(r, x);
    }
    if (V % VEC && full % blockDim.x == threadIdx.x) {
        load_masked(x, row, full * VEC, V);
        include(r, x);
    }
    return r;
}

template <typename Op> __device__ __forceinline__ float fold(const float (&x)[VEC]) {
    float folded[VEC];
#pragma unroll
    for (int i = 0; i < VEC; i++) folded[i] = x[i];
#pragma unroll
    for (int half = VEC / 2; half > 0; half /= 2)
#pragma unroll
        for (int i = 0; i < half; i++) folded[i] = Op::combine(folded[i], folded[i + half]);
    return folded[0];
}

struct RowSum {
    float max, sum; // sum of exp(x - max)
};

__device__ __forceinline__ RowSum fold_slots(RunningSum r) {
    const float max = fold<MaxOp>(r.max);
#pragma unroll
    for (int i = 0; i < VEC; i++) r.sum[i] *= fast_exp(r.max[i] - max);
    return {max, fold<AddOp>(r.sum)};
}

// Joins the threads' sums of each of ROWS rows: over the block, or, for several rows, over the warp that is the block.
template <int ROWS> __device__ __forceinline__ void join_threads(float (&max)[ROWS], float (&sum)[ROWS]) {
    float own[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) own[r] = max[r];
    if constexpr (ROWS == 1)
        max[0] = block_max(max[0]);
    else
        warp_max(max);
#pragma unroll
    for (int r = 0; r < ROWS; r++) sum[r] *= fast_exp(own[r] - max[r]);
    if constexpr (ROWS == 1)
        sum[0] = block_sum(sum[0]);
    else
        warp_sum(sum);
}

__device__ __forceinline__ void write_gradient(floatX *row, RowSum total, int target, float dloss, int V, int VP) {
    const float factor = fast_divide(dloss, total.sum);
    const int packs = VP / VEC;
    // this thread's last pack first
    const int last = (packs - 1 - (int)threadIdx.x) / (int)blockDim.x * (int)blockDim.x + (int)threadIdx.x;
    for (int pack = (int)threadIdx.x < packs ? last : -1; pack >= 0; pack -= blockDim.x) {
        float x[VEC];
        load_vec(x, row + pack * VEC);
#pragma unroll
        for (int i = 0; i < VEC; i++) {
            const int column = pack * VEC + i;
            float gradient = fast_exp(x[i] - total.max) * factor - (column == target ? dloss : 0.0f);
            x[i] = column < V ? gradient : 0.0f;
        }
        store_vec(row + pack * VEC, x);
    }
}

__device__ __forceinline__ void write_zeros(floatX *row, int VP) {
    const float zeros[VEC] = {};
    for (int pack = threadIdx.x; pack < VP / VEC; pack += blockDim.x) store_vec(row + pack * VEC, zeros);
}

// What a block works on: ROWS rows, fewer at the end.
template <int ROWS> struct Rows {
    int first, count;
    float max[ROWS], sum[ROWS];
};

// The targets' logits are read before the reductions, so that no thread has written yet.
template <int ROWS>
__device__ __forceinline__ Rows<ROWS> write_losses(float *losses, const floatX *logits, const int *targets, int n,
                                                   int V, int VP) {
    Rows<ROWS> rows;
    rows.first = blockIdx.x * ROWS;
    rows.count = min(ROWS, n - rows.first);
    float target_logit[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        rows.max[r] = -FLT_MAX, rows.sum[r] = 0.0f, target_logit[r] = 0.0f;
        if (r >= rows.count) continue;
        const int target = targets[rows.first + r];
        const floatX *row = logits + (size_t)(rows.first + r) * VP;
        if (target < 0) continue;
        if (threadIdx.x == 0) target_logit[r] = to_float(row[target]);
        const RowSum own = fold_slots(sum_of_thread(row, V));
        rows.max[r] = own.max, rows.sum[r] = own.sum;
    }
    join_threads(rows.max, rows.sum);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        if (threadIdx.x != 0 || r >= rows.count) continue;
        const bool ignored = targets[rows.first + r] < 0;
        losses[rows.first + r] = ignored ? 0.0f : fast_log(rows.sum[r]) + (rows.max[r] - target_logit[r]);
    }
    return rows;
}

template <int ROWS>
static __global__ void __launch_bounds__(ROWS == 1 ? MAX_THREADS : 32)
    forward_kernel(float *losses, const floatX *logits, const int *targets, int n, int V, int VP) {
    write_losses<ROWS>(losses, logits, targets, n, V, VP);
}

template <int ROWS>
static __global__ void __launch_bounds__(ROWS == 1 ? MAX_THREADS : 32)
    backward_kernel(float *losses, floatX *logits, const int *targets, const float *weights, const float *dloss, int n,
                    int V, int VP) {
    const Rows<ROWS> rows = write_losses<ROWS>(losses, logits, targets, n, V, VP);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        if (r >= rows.count) continue;
        floatX *row = logits + (size_t)(rows.first + r) * VP;
        const int target = targets[rows.first + r];
        if (target < 0)
            write_zeros(row, VP);
        else
            write_gradient(row, {rows.max[r], rows.sum[r]}, target, weights ? *dloss * weights[rows.first + r] : *dloss,
                           V, VP);
    }
}

// Short rows: one warp for several, so that they share the reductions. Long rows: a block each, the longest with all
// threads, so that the rows in flight fit into a GPU's L2 until they are read again.
static const int SHORT_ROW = 4096, LONG_ROW = 16384, SHORT_ROWS = 4;

extern "C" void cross_entropy_forward(float *losses, const floatX *logits, const int *targets, int n, int V, int VP,
                                      cudaStream_t stream) {
    assert(VP % 16 == 0 && are_aligned(16, logits));
    if (n <= 0) return;
    if (V <= SHORT_ROW)
        launch(forward_kernel<SHORT_ROWS>, ceil_div(n, SHORT_ROWS), 32, 0, stream, losses, logits, targets, n, V, VP);
    else
        launch(forward_kernel<1>, n, V <= LONG_ROW ? 256 : MAX_THREADS, 0, stream, losses, logits, targets, n, V, VP);
}

extern "C" void cross_entropy_backward(float *losses, floatX *logits, const int *targets, const float *weights,
                                       const float *dloss, int n, int V, int VP, cudaStream_t stream) {
    assert(VP % 16 == 0 && are_aligned(16, logits));
    if (n <= 0) return;
    if (V <= SHORT_ROW)
        launch(backward_kernel<SHORT_ROWS>, ceil_div(n, SHORT_ROWS), 32, 0, stream, losses, logits, targets, weights,
               dloss, n, V, VP);
    else
        launch(backward_kernel<1>, n, V <= LONG_ROW ? 256 : MAX_THREADS, 0, stream, losses, logits, targets, weights,
               dloss, n, V, VP);
}
