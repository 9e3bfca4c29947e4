// Sums over all gradients, or all losses, in a fixed order. Each warp sums a contiguous piece, each block adds its warps, and
// at last one block adds the blocks.
#include "kernels/grad_norm.h"

#include "device/math.h"
#include "device/reduce.h"
#include "device/vec.h"

enum { SUM_BLOCK = 256, MAX_SUM_BLOCKS = 1024, WIDTH = 4 };
enum { STEP = 32 * WIDTH };            // elements a warp reads at once
enum { MIN_BLOCK_ELEMENTS = 1 << 16 }; // less than this is not worth another block

__global__ void __launch_bounds__(SUM_BLOCK)
    sum_squares_kernel(float *partial, const float *x, size_t n, size_t piece) {
    size_t warp = (size_t)blockIdx.x * (SUM_BLOCK / 32) + threadIdx.x / 32;
    size_t begin = warp * piece, end = min(begin + piece, n);
    float sum[WIDTH] = {};
    size_t i = begin + threadIdx.x % 32 * WIDTH;
#pragma unroll 4
    for (; i + WIDTH <= end; i += STEP) {
        float value[WIDTH];
        load_vec(value, x + i);
        EACH_ELEMENT
        for (int k = 0; k < WIDTH; k++) sum[k] += value[k] * value[k];
    }
    for (; i < end; i++) sum[0] += x[i] * x[i]; // the last n % WIDTH, by one thread: the others are past the end
    float total = block_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
    if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

__device__ __forceinline__ float sum_in_block(const float *x, int n) {
    float sum = 0.0f;
    for (int i = threadIdx.x; i < n; i += SUM_BLOCK) sum += x[i];
    return block_sum(sum);
}

__global__ void norm_of_squares_kernel(float *norm, const float *sum) { *norm = fast_sqrt(*sum); }

__global__ void __launch_bounds__(SUM_BLOCK) add_gradients_kernel(float *to, const float *from, size_t n) {
    const size_t i = ((size_t)blockIdx.x * SUM_BLOCK + threadIdx.x) * WIDTH;
    if (i + WIDTH > n) {
        for (size_t k = i; k < n; k++) to[k] += from[k]; // the last n % WIDTH
        return;
    }
    float sum[WIDTH], more[WIDTH];
    load_vec(sum, to + i);
    load_vec(more, from + i);
    EACH_ELEMENT
    for (int k = 0; k < WIDTH; k++) sum[k] += more[k];
    store_vec(to + i, sum);
}

// Adds the parts of a first stage, or a batch's losses.
__global__ void __launch_bounds__(SUM_BLOCK) sum_up_kernel(float *sum, const float *x, int n) {
    float total = sum_in_block(x, n);
    if (threadIdx.x == 0) *sum += total;
}

extern "C" size_t sum_squares_scratch(void) { return MAX_SUM_BLOCKS; }

extern "C" void sum_squares(float *sum, float *scratch, const float *grads, size_t n, cudaStream_t stream) {
    assert(are_aligned(16, grads));
    size_t wanted = (n + MIN_BLOCK_ELEMENTS - 1) / MIN_BLOCK_ELEMENTS;
    int blocks = wanted < 1 ? 1 : wanted > MAX_SUM_BLOCKS ? (int)MAX_SUM_BLOCKS : (int)wanted;
    size_t warps = (size_t)blocks * (SUM_BLOCK / 32);
    size_t piece = (n + warps * STEP - 1) / (warps * STEP) * STEP;
    launch(sum_squares_kernel, dim3(blocks), dim3(SUM_BLOCK), 0, stream, scratch, grads, n, piece);
    launch(sum_up_kernel, dim3(1), dim3(SUM_BLOCK), 0, stream, sum, scratch, blocks);
}

extern "C" void norm_of_squares(float *norm, const float *sum, cudaStream_t stream) {
    launch_pointwise(norm_of_squares_kernel, dim3(1), dim3(1), stream, norm, sum);
}

extern "C" void add_gradients(float *to, const float *from, size_t n, cudaStream_t stream) {
    assert(are_aligned(16, to, from));
    if (n == 0) return;
    const unsigned blocks = (unsigned)((n + SUM_BLOCK * WIDTH - 1) / (SUM_BLOCK * WIDTH));
    launch_pointwise(add_gradients_kernel, dim3(blocks), dim3(SUM_BLOCK), stream, to, from, n);
}

extern "C" void sum_losses(float *sum, const float *losses, int n, cudaStream_t stream) {
    launch(sum_up_kernel, dim3(1), dim3(SUM_BLOCK), 0, stream, sum, losses, n);
}
