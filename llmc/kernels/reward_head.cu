// Scores of answers: score_a = sum_c x[last_a][c] w[c], hence dx[last_a] = g_a w and dw += sum_a g_a x[last_a], with g_a the
// derivative of the loss by the score. No answers share their last position. dw is summed in the order of the answers.
#include "kernels/reward_head.h"

#include "device/reduce.h"
#include "kernels/rows.h"

enum { HEAD_THREADS = 128 };
enum { MAX_BLOCKS = 256 }; // a batch has room for far more answers than it holds: blocks take them in turn

// This thread's share of the dot product of two rows.
__device__ __forceinline__ float thread_dot(const floatX *x, const floatX *w, int C) {
    float sum = 0.0f;
    for (int c = (int)threadIdx.x * VEC; c < C; c += HEAD_THREADS * VEC) {
        float a[VEC], b[VEC];
        load_vec(a, x + c);
        load_vec(b, w + c);
        EACH_ELEMENT
        for (int i = 0; i < VEC; i++) a[i] *= b[i];
        sum += sum_vec(a);
    }
    return sum;
}

__global__ void __launch_bounds__(HEAD_THREADS) reward_scores_kernel(float *scores, const floatX *x, const floatX *w,
                                                                     const int *spans, const int *counters, int C) {
    for (int answer = blockIdx.x; answer < counters[0]; answer += gridDim.x) {
        const float score = block_sum(thread_dot(x + (size_t)spans[2 * answer + 1] * C, w, C));
        if (threadIdx.x == 0) scores[answer] = score;
    }
}

__global__ void reward_dx_kernel(floatX *dx, const float *dscores, const float *dloss, const floatX *w,
                                 const int *spans, const int *counters, int C) {
    const int answer = blockIdx.x * blockDim.y + threadIdx.y;
    if (answer >= counters[0]) return;
    const float gradient = *dloss * dscores[answer];
    floatX *row = dx + (size_t)spans[2 * answer + 1] * C;
    for (int c = threadIdx.x * CHUNK; c < C; c += blockDim.x * CHUNK) {
        float value[CHUNK];
        load_vec(value, w + c);
        EACH_ELEMENT
        for (int i = 0; i < CHUNK; i++) value[i] *= gradient;
        store_vec(row + c, value);
    }
}

__global__ void reward_dw_kernel(float *dw, const float *dscores, const float *dloss, const floatX *x, const int *spans,
                                 const int *counters, int C) {
    const int c = (int)(blockIdx.x * blockDim.x + threadIdx.x) * VEC;
    if (c >= C) return;
    float sum[VEC] = {};
    for (int answer = 0; answer < counters[0]; answer++) {
        float value[VEC];
        load_vec(value, x + (size_t)spans[2 * answer + 1] * C + c);
        EACH_ELEMENT
        for (int i = 0; i < VEC; i++) sum[i] += dscores[answer] * value[i];
    }
    EACH_ELEMENT
    for (int i = 0; i < VEC; i++) dw[c + i] += *dloss * sum[i];
}

extern "C" void reward_scores(float *scores, const floatX *x, const floatX *w, const int *spans, const int *counters,
                              int capacity, int C, cudaStream_t stream) {
    assert(C % CHUNK == 0 && are_aligned(16, x, w));
    const int blocks = capacity < MAX_BLOCKS ? capacity : MAX_BLOCKS;
    launch(reward_scores_kernel, dim3((unsigned)blocks), dim3(HEAD_THREADS), 0, stream, scores, x, w, spans, counters,
           C);
}

extern "C" void reward_backward(floatX *dx, float *dw, const float *dscores, const float *dloss, const floatX *x,
                                const floatX *w, const int *spans, const int *counters, int N, int C, int capacity,
                                cudaStream_t stream) {
    assert(C % CHUNK == 0 && are_aligned(16, dx, x, w));
    cuda_check(cudaMemsetAsync(dx, 0, (size_t)N * C * sizeof *dx, stream));
    const dim3 block = rows_block(C / CHUNK);
    launch_pointwise(reward_dx_kernel, rows_grid(capacity, block), block, stream, dx, dscores, dloss, w, spans,
                     counters, C);
    if (!dw) return;
    launch_pointwise(reward_dw_kernel, dim3((unsigned)ceil_div(C / VEC, HEAD_THREADS)), dim3(HEAD_THREADS), stream, dw,
                     dscores, dloss, x, spans, counters, C);
}
