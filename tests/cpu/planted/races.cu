// Threads that write where others read or write, without an order.
#include "planted.h"

enum { THREADS = 64, N = 130, UNIT = 8 }; // units of 8, and a tail of 2

// The tail steps by 1 instead of by the block: every thread scales every element behind its own, again and again.
template <bool BUG>
static __global__ void tail_scale_kernel(float *out, const float *) {
    int t = (int)threadIdx.x, whole = N / UNIT * UNIT;
    for (int i = t; i < whole; i += THREADS) out[i] *= 0.5f;
    for (int i = whole + t % UNIT; i < N; i += BUG ? 1 : THREADS)
        if (BUG || t < UNIT) out[i] *= 0.5f; // BUG tail_scale
}

// The same tail in a copy: the right values, written by many threads at once. Wasteful, and a race all the same.
template <bool BUG>
static __global__ void tail_copy_kernel(float *out, const float *in) {
    int t = (int)threadIdx.x, whole = N / UNIT * UNIT;
    for (int i = t; i < whole; i += THREADS) out[i] = in[i];
    for (int i = whole + t % UNIT; i < N; i += BUG ? 1 : THREADS)
        if (BUG || t < UNIT) out[i] = in[i]; // BUG tail_copy
}

// The same tail in a sum: elements are counted as often as there are threads before them.
template <bool BUG>
static __global__ void tail_sum_kernel(float *out, const float *in) {
    int t = (int)threadIdx.x, whole = N / UNIT * UNIT;
    float sum = 0;
    for (int i = t; i < whole; i += THREADS) sum += in[i];
    for (int i = whole + t % UNIT; i < N; i += BUG ? 1 : THREADS)
        if (BUG || t < UNIT) sum += in[i];
    sum = block_sum(sum);
    for (int i = t; i < N; i += THREADS) out[i] = sum;
}

// A counter without an atomic: right on fibers, which do not interrupt each other, and lost updates on a GPU.
template <bool BUG>
static __global__ void count_kernel(float *out, const float *in) {
    SHARED(int, count, 1);
    int t = (int)threadIdx.x;
    if (t == 0) count[0] = 0;
    __syncthreads();
    if (in[t] > 0) {
        if (BUG) count[0]++; // BUG count
        else atomicAdd(count, 1);
    }
    __syncthreads();
    for (int i = t; i < N; i += THREADS) out[i] = (float)count[0];
}

// Blocks that add to one output, as a weight gradient without an owner: the order of a sum of floats is left open.
template <bool BUG>
static __global__ void blocks_kernel(float *out, const float *in) {
    int t = (int)threadIdx.x;
    if (BUG) out[0] += in[blockIdx.x] * 1.0001f; // BUG blocks
    else if (t == 0 && blockIdx.x == 0)
        for (unsigned b = 0; b < gridDim.x; b++) out[0] += in[b] * 1.0001f;
}

// In place, each element from its right neighbour: right in natural order only.
template <bool BUG>
static __global__ void shift_kernel(float *out, const float *in) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i + 1 < N) out[i] = BUG ? out[i + 1] : in[i + 1]; // BUG shift
}

template <void (*KERNEL)(float *, const float *), bool POINTWISE = false>
static void run() {
    float *in = device_array<float>(N), *out = device_array<float>(N);
    fill(in, N);
    cuda_check(cudaMemcpy(out, in, N * sizeof(float), cudaMemcpyDeviceToDevice));
    if (POINTWISE) launch_pointwise(KERNEL, ceil_div(N, THREADS), THREADS, nullptr, out, in);
    else launch(KERNEL, KERNEL == blocks_kernel<true> || KERNEL == blocks_kernel<false> ? 8 : 1, THREADS, 0, nullptr, out, in);
    print_values(out, N);
    cuda_check(cudaFree(in));
    cuda_check(cudaFree(out));
}

PLANTED_MAIN({"tail_scale", run<tail_scale_kernel<true>>, run<tail_scale_kernel<false>>},
             {"tail_copy", run<tail_copy_kernel<true>>, run<tail_copy_kernel<false>>},
             {"tail_sum", run<tail_sum_kernel<true>>, run<tail_sum_kernel<false>>},
             {"count", run<count_kernel<true>>, run<count_kernel<false>>},
             {"blocks", run<blocks_kernel<true>>, run<blocks_kernel<false>>},
             {"shift", run<shift_kernel<true>, true>, run<shift_kernel<false>, true>})
