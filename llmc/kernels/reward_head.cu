// Scores of answers: score_a = sum_c x[last_a][c] w[c], hence dx[last_a] = g_a w and dw = sum_a g_a x[last_a], with g_a the
// derivative of the loss by the score. No answers share their last position. dw is summed in the order of the answers.
#include "kernels/reward_head.h"

#include "device/reduce.h"
#include "kernels/rows.h"

enum { HEAD_THREADS = 128 };
enum { MAX_BLOCKS = 256 }; // a batch has room for far more answers than it holds: blocks take them in turn

// The dot product of two rows, by the THREADS of a block. A thread sums the elements of its spans beside each other.
template <int THREADS> __device__ __forceinline__ float dot_in_block(const floatX *x, const floatX *w, int C) {
    float sum[SPAN] = {};
    for (int c = (int)threadIdx.x * SPAN; c < C; c += THREADS * SPAN) {
        float a[SPAN], b[SPAN];
        load_vec(a, x + c);
        load_vec(b, w + c);
        EACH_ELEMENT
        for (int i = 0; i < SPAN; i++) sum[i] += a[i] * b[i];
    }
    return block_sum<THREADS>(sum_vec(sum));
}

template <int THREADS>
__global__ void __launch_bounds__(THREADS) reward_scores_kernel(float *scores, const floatX *x, const floatX *w,
                                                                const int *spans, const int *counters, int C) {
    for (int answer = blockIdx.x; answer < counters[0]; answer += gridDim.x) {
        const float score = dot_in_block<THREADS>(x + (size_t)spans[2 * answer + 1] * C, w, C);
        if (threadIdx.x == 0) scores[answer] = score;
    }
}

__global__ void reward_dx_kernel(floatX *dx, const float *dscores, const float *dloss, const floatX *w,
                                 const int *spans, const int *counters, int C) {
    const int answer = blockIdx.x * blockDim.y + threadIdx.y;
    if (answer >= counters[0]) return;
    const float gradient = *dloss * dscores[answer];
    floatX *row = dx + (size_t)spans[2 * answer + 1] * C;
    for (int c = threadIdx.x * SPAN; c < C; c += blockDim.x * SPAN) {
        float value[SPAN];
        load_vec(value, w + c);
        EACH_ELEMENT
        for (int i = 0; i < SPAN; i++) value[i] *= gradient;
        store_vec(row + c, value);
    }
}

__global__ void reward_dw_kernel(float *dw, const float *dscores, const float *dloss, const floatX *x, const int *spans,
                                 const int *counters, bool accumulate, int C) {
    const int c = (int)(blockIdx.x * blockDim.x + threadIdx.x) * SPAN;
    if (c >= C) return;
    float sum[SPAN] = {};
    for (int answer = 0; answer < counters[0]; answer++) {
        float value[SPAN];
        load_vec(value, x + (size_t)spans[2 * answer + 1] * C + c);
        EACH_ELEMENT
        for (int i = 0; i < SPAN; i++) sum[i] += dscores[answer] * value[i];
    }
    EACH_ELEMENT
    for (int i = 0; i < SPAN; i++) dw[c + i] = (accumulate ? dw[c + i] : 0.0f) + *dloss * sum[i];
}

extern "C" void reward_scores(float *scores, const floatX *x, const floatX *w, const int *spans, const int *counters,
                              int capacity, int C, cudaStream_t stream) {
    assert(C % 16 == 0 && are_aligned(16, x, w));
    const int blocks = capacity < MAX_BLOCKS ? capacity : MAX_BLOCKS;
    launch_block(reward_scores_kernel, HEAD_THREADS, dim3((unsigned)blocks), stream, scores, x, w, spans, counters, C);
}

extern "C" void reward_backward(floatX *dx, float *dw, const float *dscores, const float *dloss, const floatX *x,
                                const floatX *w, const int *spans, const int *counters, bool accumulate, int N, int C,
                                int capacity, cudaStream_t stream) {
    assert(C % 16 == 0 && are_aligned(16, dx, x, w));
    cuda_check(cudaMemsetAsync(dx, 0, (size_t)N * C * sizeof *dx, stream));
    const dim3 block = rows_block(C / SPAN);
    launch_pointwise(reward_dx_kernel, rows_grid(capacity, block), block, stream, dx, dscores, dloss, w, spans,
                     counters, C);
    if (!dw) return;
    launch_pointwise(reward_dw_kernel, dim3((unsigned)ceil_div(C / SPAN, HEAD_THREADS)), dim3(HEAD_THREADS), stream, dw,
                     dscores, dloss, x, spans, counters, accumulate, C);
}
