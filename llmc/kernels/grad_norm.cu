// Sums over all gradients, or all losses, in a fixed order. Each block sums a contiguous piece, and at last one block adds the
// blocks.
#include "kernels/grad_norm.h"

#include "device/math.h"
#include "device/reduce.h"
#include "device/vec.h"

enum { SUM_BLOCK = 256, MAX_SUM_BLOCKS = 1024, WIDTH = 4 };
enum { STEP = SUM_BLOCK * WIDTH };     // elements a block reads at once
enum { MIN_BLOCK_ELEMENTS = 1 << 16 }; // less than this is not worth another block

// The sum of term(x[i]), begin <= i < end, by the THREADS of a block. A thread has COUNT sums beside each other: one that is
// alone has some vectors of them.
template <int THREADS, typename Term>
__device__ __forceinline__ float sum_in_block(const float *x, size_t begin, size_t end, Term term) {
    constexpr int COUNT = THREADS == 1 ? 64 : WIDTH;
    float sum[COUNT] = {};
    size_t i = begin + threadIdx.x * COUNT;
#pragma unroll 4
    for (; i + COUNT <= end; i += THREADS * COUNT) {
        float value[COUNT];
        load_vec(value, x + i);
        EACH_ELEMENT
        for (int k = 0; k < COUNT; k++) sum[k] += term(value[k]);
    }
#pragma unroll 1
    for (; i < end; i++) sum[0] += term(x[i]); // what is left, by one thread: the others are past the end
    return block_sum<THREADS>(sum_vec(sum));
}

template <int THREADS>
__global__ void __launch_bounds__(THREADS) sum_squares_kernel(float *partial, const float *x, size_t n, size_t piece) {
    const size_t begin = blockIdx.x * piece;
    const float total = sum_in_block<THREADS>(x, begin, min(begin + piece, n), [](float g) { return g * g; });
    if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

__global__ void norm_of_squares_kernel(float *norm, const float *sum) { *norm = fast_sqrt(*sum); }

__global__ void __launch_bounds__(SUM_BLOCK) add_gradients_kernel(float *to, const float *from, size_t n) {
    const size_t i = ((size_t)blockIdx.x * SUM_BLOCK + threadIdx.x) * WIDTH;
    if (i >= n) return;
    float sum[WIDTH], more[WIDTH];
    load_vec(sum, to + i);
    load_vec(more, from + i);
    EACH_ELEMENT
    for (int k = 0; k < WIDTH; k++) sum[k] += more[k];
    store_vec(to + i, sum);
}

// Adds up the parts of a first stage, or a batch's losses.
template <int THREADS>
__global__ void __launch_bounds__(THREADS) sum_up_kernel(float *sum, bool accumulate, const float *x, int n) {
    const float total = sum_in_block<THREADS>(x, 0, (size_t)n, [](float part) { return part; });
    if (threadIdx.x == 0) *sum = (accumulate ? *sum : 0.0f) + total;
}

__global__ void sum_in_order_kernel(float *sum, const float *parts, int n) {
    float total = 0.0f;
    for (int i = 0; i < n; i++) total += parts[i];
    *sum = total;
}

extern "C" size_t sum_squares_scratch(void) { return MAX_SUM_BLOCKS; }

extern "C" void sum_squares(float *sum, float *scratch, const float *grads, size_t n, cudaStream_t stream) {
    assert(are_aligned(16, scratch, grads));
    size_t wanted = (n + MIN_BLOCK_ELEMENTS - 1) / MIN_BLOCK_ELEMENTS;
    size_t blocks = wanted < 1 ? 1 : wanted > MAX_SUM_BLOCKS ? (size_t)MAX_SUM_BLOCKS : wanted;
    size_t piece = (n + blocks * STEP - 1) / (blocks * STEP) * STEP;
    launch_block(sum_squares_kernel, SUM_BLOCK, dim3((unsigned)blocks), stream, scratch, grads, n, piece);
    launch_block(sum_up_kernel, SUM_BLOCK, dim3(1), stream, sum, false, scratch, (int)blocks);
}

extern "C" void sum_in_order(float *sum, const float *parts, int n, cudaStream_t stream) {
    launch_pointwise(sum_in_order_kernel, dim3(1), dim3(1), stream, sum, parts, n);
}

extern "C" void norm_of_squares(float *norm, const float *sum, cudaStream_t stream) {
    launch_pointwise(norm_of_squares_kernel, dim3(1), dim3(1), stream, norm, sum);
}

extern "C" void add_gradients(float *to, const float *from, size_t n, cudaStream_t stream) {
    assert(n % WIDTH == 0 && are_aligned(16, to, from));
    if (n == 0) return;
    const unsigned blocks = (unsigned)((n + SUM_BLOCK * WIDTH - 1) / (SUM_BLOCK * WIDTH));
    launch_pointwise(add_gradients_kernel, dim3(blocks), dim3(SUM_BLOCK), stream, to, from, n);
}

extern "C" void sum_losses(float *sum, const float *losses, int n, cudaStream_t stream) {
    assert(are_aligned(16, losses));
    launch_block(sum_up_kernel, SUM_BLOCK, dim3(1), stream, sum, true, losses, n);
}
