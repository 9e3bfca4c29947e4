// Fused softmax and cross-entropy (classifier.h), one block a row, or one warp for four short rows; on the CPU one thread a row.
//
// One pass finds the row's maximum m and s = sum exp(x - m) together: each thread keeps m and s for each of the elements that it
// loads at once, and a new x costs one exponential, e = exp(-|x - m|):
//     x <= m:  s += e            x > m:  s = s e + 1,  m = x
// Two reductions join the threads. A second pass, backwards through the row to meet what the caches still hold,
// writes the gradient. Logits are read twice and written once; the second reading is the cache's.
#include "kernels/classifier.h"

#include <float.h>

#include "device/launch.h"
#include "device/math.h"
#include "device/reduce.h"
#include "device/vec.h"

// Short rows: one warp for several, so that they share the reductions. Long rows: a block each, the longest with all
// threads, so that the rows in flight fit into a GPU's L2 until they are read again.
static const int SHORT_ROW = 4096, LONG_ROW = 16384, SHORT_ROWS = 4, MAX_THREADS = 1024;

// For the template parameter ROWS, the rows of a block: one, by a thread that is alone in the block.
enum { ALONE = 0 };

// How the threads of a block share a row: in packs, of which each takes every `threads`-th.
template <int ROWS> struct Share {
    static constexpr int COUNT = ROWS == ALONE ? 1 : ROWS; // rows of a block
    static constexpr int PACK = ROWS == ALONE ? 16 : VEC;
    static __device__ __forceinline__ unsigned threads() { return ROWS == ALONE ? 1 : blockDim.x; }
    static __device__ __forceinline__ unsigned thread() { return ROWS == ALONE ? 0 : threadIdx.x; }
};

template <int PACK> struct RunningSum { float max[PACK], sum[PACK]; };

template <int PACK> __device__ __forceinline__ void include(RunningSum<PACK> &r, const float (&x)[PACK]) {
    float e[PACK];
    EACH_ELEMENT
    for (int i = 0; i < PACK; i++) e[i] = fabsf(x[i] - r.max[i]) * -LOG2E;
    fast_exp2(e);
    EACH_ELEMENT
    for (int i = 0; i < PACK; i++) {
        const bool larger = x[i] > r.max[i];
        r.sum[i] = larger ? r.sum[i] * e[i] + 1.0f : r.sum[i] + e[i];
        r.max[i] = larger ? x[i] : r.max[i];
    }
}

// The columns from `first` on; those beyond V count as -infinity.
template <int PACK> __device__ __forceinline__ void load_masked(float (&x)[PACK], const floatX *row, int first, int V) {
    load_vec(x, row + first);
    EACH_ELEMENT
    for (int i = 0; i < PACK; i++) x[i] = first + i < V ? x[i] : -INFINITY;
}

// This thread's share of the row; the last pack may be partly padding.
template <int ROWS> __device__ __forceinline__ RunningSum<Share<ROWS>::PACK> sum_of_thread(const floatX *row, int V) {
    typedef Share<ROWS> By;
    RunningSum<By::PACK> r;
    EACH_ELEMENT
    for (int i = 0; i < By::PACK; i++) r.max[i] = -FLT_MAX, r.sum[i] = 0.0f;
    const int full = V / By::PACK;
    float x[By::PACK];
#pragma unroll 2
    for (int pack = By::thread(); pack < full; pack += By::threads()) {
        load_vec(x, row + pack * By::PACK);
        include(r, x);
    }
    if (V % By::PACK && full % By::threads() == By::thread()) {
        load_masked(x, row, full * By::PACK, V);
        include(r, x);
    }
    return r;
}

struct RowSum {
    float max, sum; // sum of exp(x - max)
};

template <int PACK> __device__ __forceinline__ RowSum fold_slots(RunningSum<PACK> r) {
    const float max = max_vec(r.max);
    float e[PACK];
    EACH_ELEMENT
    for (int i = 0; i < PACK; i++) e[i] = (r.max[i] - max) * LOG2E;
    fast_exp2(e);
    EACH_ELEMENT
    for (int i = 0; i < PACK; i++) r.sum[i] *= e[i];
    return {max, sum_vec(r.sum)};
}

// Joins the threads' sums of each of the block's rows: over the block, or, for several rows, over the warp that is the block.
template <int ROWS, int COUNT> __device__ __forceinline__ void join_threads(float (&max)[COUNT], float (&sum)[COUNT]) {
    if constexpr (ROWS == ALONE) return;
    float own[COUNT];
#pragma unroll
    for (int r = 0; r < COUNT; r++) own[r] = max[r];
    if constexpr (ROWS == 1)
        max[0] = block_max(max[0]);
    else
        warp_max(max);
#pragma unroll
    for (int r = 0; r < COUNT; r++) sum[r] *= fast_exp(own[r] - max[r]);
    if constexpr (ROWS == 1)
        sum[0] = block_sum(sum[0]);
    else
        warp_sum(sum);
}

template <int ROWS>
__device__ __forceinline__ void write_gradient(floatX *row, RowSum total, int target, float dloss, int V, int VP) {
    typedef Share<ROWS> By;
    const float factor = fast_divide(dloss, total.sum);
    const int packs = VP / By::PACK, threads = (int)By::threads(), thread = (int)By::thread();
    // this thread's last pack first
    const int last = (packs - 1 - thread) / threads * threads + thread;
    for (int pack = thread < packs ? last : -1; pack >= 0; pack -= threads) {
        float x[By::PACK];
        load_vec(x, row + pack * By::PACK);
        EACH_ELEMENT
        for (int i = 0; i < By::PACK; i++) x[i] = (x[i] - total.max) * LOG2E;
        fast_exp2(x);
        EACH_ELEMENT
        for (int i = 0; i < By::PACK; i++) {
            const int column = pack * By::PACK + i;
            float gradient = x[i] * factor - (column == target ? dloss : 0.0f);
            x[i] = column < V ? gradient : 0.0f;
        }
        store_vec(row + pack * By::PACK, x);
    }
}

template <int ROWS> __device__ __forceinline__ void write_zeros(floatX *row, int VP) {
    typedef Share<ROWS> By;
    const float zeros[By::PACK] = {};
    for (int pack = By::thread(); pack < VP / By::PACK; pack += By::threads()) store_vec(row + pack * By::PACK, zeros);
}

// What a block works on: COUNT rows, fewer at the end.
template <int COUNT> struct Rows {
    int first, count;
    float max[COUNT], sum[COUNT];
};

// The targets' logits are read before the reductions, so that no thread has written yet.
template <int ROWS>
__device__ __forceinline__ Rows<Share<ROWS>::COUNT> write_losses(float *losses, const floatX *logits,
                                                                 const int *targets, int n, int V, int VP) {
    constexpr int COUNT = Share<ROWS>::COUNT;
    Rows<COUNT> rows;
    rows.first = blockIdx.x * COUNT;
    rows.count = min(COUNT, n - rows.first);
    float target_logit[COUNT];
#pragma unroll
    for (int r = 0; r < COUNT; r++) {
        rows.max[r] = -FLT_MAX, rows.sum[r] = 0.0f, target_logit[r] = 0.0f;
        if (r >= rows.count) continue;
        const int target = targets[rows.first + r];
        const floatX *row = logits + (size_t)(rows.first + r) * VP;
        if (target < 0) continue;
        if (threadIdx.x == 0) target_logit[r] = to_float(row[target]);
        const RowSum own = fold_slots(sum_of_thread<ROWS>(row, V));
        rows.max[r] = own.max, rows.sum[r] = own.sum;
    }
    join_threads<ROWS>(rows.max, rows.sum);
#pragma unroll
    for (int r = 0; r < COUNT; r++) {
        if (threadIdx.x != 0 || r >= rows.count) continue;
        const bool ignored = targets[rows.first + r] < 0;
        losses[rows.first + r] = ignored ? 0.0f : fast_log(rows.sum[r]) + (rows.max[r] - target_logit[r]);
    }
    return rows;
}

template <int ROWS>
static __global__ void __launch_bounds__(ROWS == SHORT_ROWS ? 32 : MAX_THREADS)
    forward_kernel(float *losses, const floatX *logits, const int *targets, int n, int V, int VP) {
    write_losses<ROWS>(losses, logits, targets, n, V, VP);
}

template <int ROWS>
static __global__ void __launch_bounds__(ROWS == SHORT_ROWS ? 32 : MAX_THREADS)
    backward_kernel(float *losses, floatX *logits, const int *targets, const float *weights, const float *dloss, int n,
                    int V, int VP) {
    const auto rows = write_losses<ROWS>(losses, logits, targets, n, V, VP);
#pragma unroll
    for (int r = 0; r < Share<ROWS>::COUNT; r++) {
        if (r >= rows.count) continue;
        floatX *row = logits + (size_t)(rows.first + r) * VP;
        const int target = targets[rows.first + r];
        if (target < 0)
            write_zeros<ROWS>(row, VP);
        else
            write_gradient<ROWS>(row, {rows.max[r], rows.sum[r]}, target,
                                 weights ? *dloss * weights[rows.first + r] : *dloss, V, VP);
    }
}

extern "C" void cross_entropy_forward(float *losses, const floatX *logits, const int *targets, int n, int V, int VP,
                                      cudaStream_t stream) {
    assert(VP % 16 == 0 && are_aligned(16, logits));
    if (n <= 0 || launch_alone(forward_kernel<ALONE>, dim3(n), stream, losses, logits, targets, n, V, VP)) return;
    if (V <= SHORT_ROW)
        launch(forward_kernel<SHORT_ROWS>, ceil_div(n, SHORT_ROWS), 32, 0, stream, losses, logits, targets, n, V, VP);
    else
        launch(forward_kernel<1>, n, V <= LONG_ROW ? 256 : MAX_THREADS, 0, stream, losses, logits, targets, n, V, VP);
}

extern "C" void cross_entropy_backward(float *losses, floatX *logits, const int *targets, const float *weights,
                                       const float *dloss, int n, int V, int VP, cudaStream_t stream) {
    assert(VP % 16 == 0 && are_aligned(16, logits));
    if (n <= 0 ||
        launch_alone(backward_kernel<ALONE>, dim3(n), stream, losses, logits, targets, weights, dloss, n, V, VP))
        return;
    if (V <= SHORT_ROW)
        launch(backward_kernel<SHORT_ROWS>, ceil_div(n, SHORT_ROWS), 32, 0, stream, losses, logits, targets, weights,
               dloss, n, V, VP);
    else
        launch(backward_kernel<1>, n, V <= LONG_ROW ? 256 : MAX_THREADS, 0, stream, losses, logits, targets, weights,
               dloss, n, V, VP);
}
