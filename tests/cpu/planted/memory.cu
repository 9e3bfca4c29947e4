// Memory that is not the kernel's, or not yet written.
#include "planted.h"

#include <math.h>
#include <sys/mman.h>

enum { THREADS = 128, N = 100 };

// `>` where `>=` is meant: one element too many is written.
template <bool BUG>
static __global__ void greater_kernel(float *out, const float *in) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (BUG ? i > N : i >= N) return;
    out[i] = 2.0f * in[i < N ? i : 0]; // BUG greater
}

// The same on reading.
template <bool BUG>
static __global__ void greater_read_kernel(float *out, const float *in) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (BUG ? i > N : i >= N) return;
    float x = in[i]; // BUG greater_read
    if (i < N || x == 0.5f) out[i] = 2.0f * x;
}

template <bool BUG>
static __global__ void static_shared_kernel(float *out, const float *in) {
    SHARED(float, row, N);
    SHARED(float, next, N);
    int t = (int)threadIdx.x;
    if (BUG ? t <= N : t < N) row[t] = in[t < N ? t : 0]; // BUG static_shared
    if (t < N) next[t] = 1;
    __syncthreads();
    if (t < N) out[t] = row[N - 1 - t] * next[t];
}

template <bool BUG>
static __global__ void dynamic_shared_kernel(float *out, const float *in) {
    SHARED_DYNAMIC(float, row);
    int t = (int)threadIdx.x;
    if (t < N) row[t] = in[t];
    __syncthreads();
    if (t < N) out[t] = row[BUG ? N - t : N - 1 - t]; // BUG dynamic_shared
}

template <bool BUG>
static __global__ void before_shared_kernel(float *out, const float *in) {
    SHARED_DYNAMIC(float, row);
    int t = (int)threadIdx.x;
    if (t < N) row[t] = in[t];
    __syncthreads();
    if (t < N) out[t] = row[BUG ? t - 1 : t]; // BUG before_shared
}

// Adds to a buffer that nobody has set to zero.
template <bool BUG>
static __global__ void accumulate_kernel(float *out, const float *in) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= N) return;
    if (BUG) out[i] += in[i]; // BUG accumulate
    else out[i] = in[i];
}

// Reduces over all of a shared row, of which only N elements were written.
template <bool BUG>
static __global__ void unwritten_sum_kernel(float *out, const float *in) {
    SHARED(float, row, THREADS);
    int t = (int)threadIdx.x;
    if (t < N) row[t] = in[t];
    else if (!BUG) row[t] = 0;
    __syncthreads();
    float sum = 0;
    for (int i = 0; i < THREADS; i++) sum += row[i];
    if (t < N) out[t] = sum;
}

// The same with a maximum, which swallows NaN.
template <bool BUG>
static __global__ void unwritten_max_kernel(float *out, const float *in) {
    SHARED(float, row, THREADS);
    int t = (int)threadIdx.x;
    if (t < N) row[t] = in[t];
    else if (!BUG) row[t] = -INFINITY;
    __syncthreads();
    float most = row[0];
    for (int i = 1; i < THREADS; i++) most = fmaxf(most, row[i]);
    if (t < N) out[t] = most;
}

// A thread's own array, read beyond its end.
template <bool BUG>
static __global__ void local_array_kernel(float *out, const float *in) {
    float x[8];
    int t = (int)threadIdx.x;
    for (int k = 0; k < 8; k++) x[k] = in[k];
    if (t < N) out[t] = x[(t & 7) + (BUG ? t / 99 * 8 : 0)]; // BUG local_array
}

template <void (*KERNEL)(float *, const float *)>
static void run() {
    float *in = device_array<float>(N), *out = device_array<float>(N);
    fill(in, N);
    launch(KERNEL, 1, THREADS, N * sizeof(float), nullptr, out, in);
    print_values(out, N);
    cuda_check(cudaFree(in));
    cuda_check(cudaFree(out));
}

// ---- offsets beyond 2^32: the last of 65 rows of 64 MiB

enum { ROWS = 65, C = 1 << 26 };

// int times int
template <bool BUG>
static __global__ void int_offset_kernel(float *out, const signed char *table, const int *rows) {
    int t = (int)threadIdx.x, row = rows[blockIdx.x];
    const signed char *from = BUG ? table + row * C : table + (size_t)row * C; // BUG int_offset
    out[blockIdx.x * THREADS + t] = (float)from[t];
}

// blockIdx is unsigned, so that the product wraps around
template <bool BUG>
static __global__ void unsigned_offset_kernel(float *out, const signed char *table, const int *) {
    int t = (int)threadIdx.x;
    size_t row = BUG ? blockIdx.x * C : blockIdx.x * (size_t)C; // BUG unsigned_offset
    out[blockIdx.x * THREADS + t] = (float)table[row + t];
}

template <void (*KERNEL)(float *, const signed char *, const int *)>
static void run_offsets() {
    const size_t bytes = (size_t)ROWS * C; // address space: only the pages that are touched become memory
    signed char *table =
        (signed char *)mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (table == MAP_FAILED) {
        perror("mmap");
        exit(3);
    }
    int *rows = device_array<int>(ROWS);
    float *out = device_array<float>(ROWS * THREADS);
    for (int row = 0; row < ROWS; row++) {
        rows[row] = row;
        for (int t = 0; t < THREADS; t++) table[(size_t)row * C + t] = (signed char)row;
    }
    launch(KERNEL, ROWS, THREADS, 0, nullptr, out, table, rows);
    print_values(out, ROWS * THREADS);
    cuda_check(cudaFree(out));
    cuda_check(cudaFree(rows));
    munmap(table, bytes);
}

#define TWINS(name) {#name, run<name##_kernel<true>>, run<name##_kernel<false>>}
PLANTED_MAIN(TWINS(greater), TWINS(greater_read), TWINS(static_shared), TWINS(dynamic_shared), TWINS(before_shared),
             TWINS(accumulate), TWINS(unwritten_sum), TWINS(unwritten_max), TWINS(local_array),
             {"int_offset", run_offsets<int_offset_kernel<true>>, run_offsets<int_offset_kernel<false>>},
             {"unsigned_offset", run_offsets<unsigned_offset_kernel<true>>, run_offsets<unsigned_offset_kernel<false>>})
