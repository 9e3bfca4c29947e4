// Barriers that not all threads reach.
#include "planted.h"

enum { THREADS = 128, ROWS = 6 };

// A warp a row: with 6 rows for 4 warps, two warps come to the barrier twice and two once.
template <bool BUG>
static __global__ void loop_kernel(float *out, const float *in) {
    SHARED(float, sums, THREADS / 32);
    int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, warps = THREADS / 32;
    int last = BUG ? ROWS : (ROWS + warps - 1) / warps * warps;
    for (int row = warp; row < last; row += warps) {
        if (lane == 0) sums[warp] = row < ROWS ? in[row] : 0;
        __syncthreads(); // BUG loop
        if (row < ROWS && lane == 0) out[row] = sums[warp];
    }
}

// Threads beyond the end leave before the others reduce.
template <bool BUG>
static __global__ void early_return_kernel(float *out, const float *in) {
    int t = (int)threadIdx.x;
    if (BUG && t >= 100) return;
    float sum = block_sum(t < 100 ? in[t] : 0.0f); // BUG early_return
    if (t == 0) out[0] = sum;
}

// The two halves of the block come to barriers of their own.
template <bool BUG>
static __global__ void two_barriers_kernel(float *out, const float *in) {
    SHARED(float, row, THREADS);
    int t = (int)threadIdx.x;
    row[t] = in[t];
    if (!BUG) __syncthreads();
    else if (t < THREADS / 2) __syncthreads(); // BUG two_barriers
    else __syncthreads();
    if (t < ROWS) out[t] = row[t + 1];
}

// A shuffle that only some lanes of the warp come to.
template <bool BUG>
static __global__ void shuffle_kernel(float *out, const float *in) {
    int t = (int)threadIdx.x;
    float x = in[t];
    if (!BUG || t % 32 < 16) x += __shfl_xor_sync(0xffffffffu, x, 1); // BUG shuffle
    if (t < ROWS) out[t] = x;
}

// launch prints the kernel's name as it stands in the call
#define RUN(name)                                                                                                    \
    template <bool BUG>                                                                                              \
    static void run_##name() {                                                                                       \
        float *in = device_array<float>(THREADS), *out = device_array<float>(ROWS);                                  \
        fill(in, THREADS);                                                                                           \
        cuda_check(cudaMemset(out, 0, ROWS * sizeof(float)));                                                        \
        launch(name##_kernel<BUG>, 1, THREADS, 0, nullptr, out, in);                                        \
        print_values(out, ROWS);                                                                                     \
        cuda_check(cudaFree(in));                                                                                    \
        cuda_check(cudaFree(out));                                                                                   \
    }
RUN(loop)
RUN(early_return)
RUN(two_barriers)
RUN(shuffle)

#define TWINS(name) {#name, run_##name<true>, run_##name<false>}
PLANTED_MAIN(TWINS(loop), TWINS(early_return), TWINS(two_barriers), TWINS(shuffle))
