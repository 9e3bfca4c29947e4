// Barriers that are missing: between a write to shared memory and another thread's read of it, or the reverse.
#include "planted.h"

enum { THREADS = 128 };

// Read after write: a row is reversed through shared memory.
template <bool BUG>
static __global__ void reverse_kernel(float *out, const float *in) {
    SHARED(float, row, THREADS);
    int t = (int)threadIdx.x;
    row[t] = in[t];
    if (!BUG) __syncthreads();
    out[t] = row[THREADS - 1 - t]; // BUG reverse
}

// Write after read: two tiles pass through the same shared memory, the second may come too early.
template <bool BUG>
static __global__ void tiles_kernel(float *out, const float *in) {
    SHARED(float, tile, THREADS);
    int t = (int)threadIdx.x;
    float sum = 0;
    for (int i = 0; i < 2; i++) {
        tile[t] = in[i * THREADS + t]; // BUG tiles
        __syncthreads();
        sum += tile[(t + 1) % THREADS];
        if (!BUG) __syncthreads();
    }
    out[t] = sum;
}

// One thread hands a number to all others, as the statistics of a row.
template <bool BUG>
static __global__ void broadcast_kernel(float *out, const float *in) {
    SHARED(float, scale, 1);
    int t = (int)threadIdx.x;
    if (t == 0) scale[0] = in[0];
    if (!BUG) __syncthreads();
    out[t] = in[t] * scale[0]; // BUG broadcast
}

// The least that can go wrong: of all threads, lane 1 alone reads what lane 0 alone wrote.
template <bool BUG>
static __global__ void pair_kernel(float *out, const float *in) {
    SHARED(float, cell, 1);
    int t = (int)threadIdx.x;
    if (t == 0) cell[0] = in[0];
    if (!BUG) __syncwarp();
    out[t] = t == 1 ? cell[0] : in[t]; // BUG pair
}

template <void (*KERNEL)(float *, const float *)>
static void run() {
    float *in = device_array<float>(2 * THREADS), *out = device_array<float>(THREADS);
    fill(in, 2 * THREADS);
    launch(KERNEL, 1, THREADS, 0, nullptr, out, in);
    print_values(out, THREADS);
    cuda_check(cudaFree(in));
    cuda_check(cudaFree(out));
}

PLANTED_MAIN({"reverse", run<reverse_kernel<true>>, run<reverse_kernel<false>>},
             {"tiles", run<tiles_kernel<true>>, run<tiles_kernel<false>>},
             {"broadcast", run<broadcast_kernel<true>>, run<broadcast_kernel<false>>},
             {"pair", run<pair_kernel<true>>, run<pair_kernel<false>>})
