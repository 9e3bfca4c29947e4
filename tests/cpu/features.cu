// What the CPU target offers to kernels, each used once by a small kernel. Prints one line an array: name, then its
// numbers (floats as %.17g). tests/cpu/test_cpu_target.py knows what they must be.
#include "device/device.h"
#include "device/launch.h"
#include "device/reduce.h"
#include "device/types.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

template <typename T>
static T *device_array(size_t count) {
    void *pointer;
    cuda_check(cudaMalloc(&pointer, count * sizeof(T)));
    return (T *)pointer;
}

static void print(double x) { printf(" %.17g", x); }

template <typename T>
static void show(const char *name, const T *values, size_t count) {
    printf("%s", name);
    for (size_t i = 0; i < count; i++) print((double)values[i]);
    printf("\n");
}

template <typename T>
static void show_and_free(const char *name, T *values, size_t count) {
    show(name, values, count);
    cuda_check(cudaFree(values));
}

// ---- indices

// out[linear block][linear thread]: all twelve numbers packed into one, none above 15.
static __global__ void indices_kernel(double *out) {
    size_t block = blockIdx.x + gridDim.x * (blockIdx.y + (size_t)gridDim.y * blockIdx.z);
    size_t thread = threadIdx.x + blockDim.x * (threadIdx.y + (size_t)blockDim.y * threadIdx.z);
    size_t threads = (size_t)blockDim.x * blockDim.y * blockDim.z;
    unsigned numbers[12] = {blockIdx.x,  blockIdx.y,  blockIdx.z,  gridDim.x,  gridDim.y,  gridDim.z,
                            threadIdx.x, threadIdx.y, threadIdx.z, blockDim.x, blockDim.y, blockDim.z};
    double packed = 0;
    for (unsigned number : numbers) packed = packed * 16 + number;
    out[block * threads + thread] = packed;
}

static void indices() {
    const dim3 grid(3, 2, 4), block(8, 4, 2);
    const size_t count = 3 * 2 * 4 * 64;
    double *out = device_array<double>(count);
    launch(indices_kernel, grid, block, 0, nullptr, out);
    show_and_free("indices", out, count);
    out = device_array<double>(count);
    launch_pointwise(indices_kernel, grid, block, nullptr, out);
    show_and_free("indices_pointwise", out, count);
}

// ---- shared memory

// Reverses n floats through static and n ints through dynamic shared memory; the poison found before is kept.
static __global__ void shared_kernel(float *floats, int *ints, unsigned *poison) {
    SHARED(float, first, 192);
    SHARED(float, second, 3);
    SHARED_DYNAMIC(int, dynamic);
    int t = (int)threadIdx.x, n = (int)blockDim.x;
    poison[t] = __float_as_uint(first[t]) & (unsigned)dynamic[t] & __float_as_uint(second[t % 3]);
    __syncthreads();
    first[t] = (float)t;
    dynamic[t] = 1000 + t;
    __syncthreads();
    floats[t] = first[n - 1 - t];
    ints[t] = dynamic[n - 1 - t];
}

static void shared() {
    float *floats = device_array<float>(192);
    int *ints = device_array<int>(192);
    unsigned *poison = device_array<unsigned>(192);
    for (int run = 0; run < 2; run++) // the second block on the same memory finds poison again
        launch(shared_kernel, 1, 192, 192 * sizeof(int), nullptr, floats, ints, poison);
    show_and_free("shared_static", floats, 192);
    show_and_free("shared_dynamic", ints, 192);
    show_and_free("shared_poison", poison, 192);
}

// ---- barriers

// 50 rounds in which each thread takes its neighbour's number: one barrier too few or too weak shows.
static __global__ void rotate_kernel(int *out) {
    SHARED(int, ring, 256);
    int t = (int)threadIdx.x, n = (int)blockDim.x;
    int own = t;
    for (int round = 0; round < 50; round++) {
        ring[t] = own;
        __syncthreads();
        own = ring[(t + 1) % n];
        __syncthreads();
    }
    out[blockIdx.x * n + t] = own;
}

static __global__ void rotate_warp_kernel(int *out) {
    SHARED(int, ring, 256);
    int t = (int)threadIdx.x, first = t / 32 * 32;
    int own = t;
    for (int round = 0; round < 5 + t / 32; round++) { // warps are independent of each other
        ring[t] = own;
        __syncwarp();
        own = ring[first + (t + 1) % 32];
        __syncwarp();
    }
    out[t] = own;
}

static void barriers() {
    int *out = device_array<int>(4 * 256);
    launch(rotate_kernel, 4, 256, 0, nullptr, out);
    show_and_free("rotate", out, 4 * 256);
    out = device_array<int>(256);
    launch(rotate_warp_kernel, 1, 256, 0, nullptr, out);
    show_and_free("rotate_warp", out, 256);
}

// ---- shuffles

static __global__ void shuffles_kernel(int *out, double *wide) {
    int t = (int)threadIdx.x, n = (int)blockDim.x, k = 0;
    int value = 100 + t;
    out[k++ * n + t] = __shfl_sync(0xffffffffu, value, 5);
    out[k++ * n + t] = __shfl_sync(0xffffffffu, value, (t * 7 + 3) % 32);
    out[k++ * n + t] = __shfl_sync(0xffffffffu, value, t + 1, 8);
    out[k++ * n + t] = __shfl_xor_sync(0xffffffffu, value, 1);
    out[k++ * n + t] = __shfl_xor_sync(0xffffffffu, value, 16);
    out[k++ * n + t] = __shfl_down_sync(0xffffffffu, value, 3);
    out[k++ * n + t] = __shfl_up_sync(0xffffffffu, value, 3);
    wide[t] = __shfl_xor_sync(0xffffffffu, 0.5 + t, 31);
}

static void shuffles() {
    int *out = device_array<int>(7 * 64);
    double *wide = device_array<double>(64);
    launch(shuffles_kernel, 1, 64, 0, nullptr, out, wide);
    show_and_free("shuffles", out, 7 * 64);
    show_and_free("shuffle_double", wide, 64);
}

// ---- reductions

// in: [blocks * threads]. out: one row a reduction.
template <typename T>
static __global__ void reduce_kernel(T *out, const T *in, int rows) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    T x[2] = {in[i], -in[i]};
    T results[8][2];
    for (int r = 0; r < 8; r++) results[r][0] = x[0], results[r][1] = x[1];
    warp_sum(results[0]);
    warp_max(results[1]);
    quad_sum(results[2]);
    quad_max(results[3]);
    for (int r = 0; r < 4; r++)
        for (int k = 0; k < 2; k++) out[(r * 2 + k) * rows + i] = results[r][k];
}

static __global__ void reduce_scalar_kernel(float *out, const float *in, int rows) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    out[0 * rows + i] = warp_sum(in[i]);
    out[1 * rows + i] = warp_max(in[i]);
    out[2 * rows + i] = block_sum(in[i]);
    out[3 * rows + i] = block_max(in[i]);
}

static uint32_t random_word() {
    static uint32_t state = 12345;
    state = state * 1664525u + 1013904223u;
    return state;
}

static void reductions() {
    enum { ROWS = 3 * 96 };
    float *floats = device_array<float>(ROWS), *out = device_array<float>(8 * ROWS);
    int *ints = device_array<int>(ROWS), *out_int = device_array<int>(8 * ROWS);
    for (int i = 0; i < ROWS; i++) {
        floats[i] = (float)((int)(random_word() >> 8) - (1 << 23)) * 1e-5f;
        ints[i] = (int)(random_word() >> 12) - (1 << 19);
    }
    show("reduce_in", floats, ROWS);
    show("reduce_in_int", ints, ROWS);
    launch(reduce_kernel<float>, 3, 96, 0, nullptr, out, floats, ROWS);
    show("reduce", out, 8 * ROWS);
    launch(reduce_kernel<int>, 3, 96, 0, nullptr, out_int, ints, ROWS);
    show_and_free("reduce_int", out_int, 8 * ROWS);
    launch(reduce_scalar_kernel, 3, 96, 0, nullptr, out, floats, ROWS);
    show_and_free("reduce_scalar", out, 4 * ROWS);
    cuda_check(cudaFree(floats));
    cuda_check(cudaFree(ints));
}

// ---- atomics

static __global__ void atomics_kernel(int *total, unsigned long long *wide, int *most, int *tickets) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    atomicAdd(total, i);
    atomicAdd(wide, 1ull << 33);
    atomicMax(most, i * 7919 % 1000);
    int ticket = atomicAdd(&tickets[0], 1);
    tickets[1 + ticket] = 1; // every ticket is given once
}

static void atomics() {
    enum { THREADS = 16 * 64 };
    int *total = device_array<int>(1), *most = device_array<int>(1), *tickets = device_array<int>(1 + THREADS);
    unsigned long long *wide = device_array<unsigned long long>(1);
    cuda_check(cudaMemset(total, 0, sizeof(int)));
    cuda_check(cudaMemset(most, 0, sizeof(int)));
    cuda_check(cudaMemset(tickets, 0, (1 + THREADS) * sizeof(int)));
    cuda_check(cudaMemset(wide, 0, sizeof *wide));
    launch(atomics_kernel, 16, 64, 0, nullptr, total, wide, most, tickets);
    show_and_free("atomic_total", total, 1);
    show_and_free("atomic_wide", wide, 1);
    show_and_free("atomic_max", most, 1);
    show_and_free("atomic_tickets", tickets, 1 + THREADS);
}

// ---- memory, streams and events

static void memory() {
    unsigned char *bytes = device_array<unsigned char>(1000);
    show("malloc_poison", bytes, 1000);
    printf("malloc_align %d\n", (int)((uintptr_t)bytes % 256));
    cuda_check(cudaMemset(bytes, 7, 10));
    cuda_check(cudaMemcpy(bytes + 5, bytes, 10, cudaMemcpyDeviceToDevice));
    show_and_free("memory_copied", bytes, 16);

    void *nothing = nullptr;
    cudaError_t error = cudaMalloc(&nothing, (size_t)1 << 60);
    cudaError_t last = cudaGetLastError(), then = cudaGetLastError();
    printf("too_much %d %d %d\n", error == cudaErrorMemoryAllocation, last == cudaErrorMemoryAllocation,
           then == cudaSuccess);
    size_t free_bytes = 0, total_bytes = 0;
    cuda_check(cudaMemGetInfo(&free_bytes, &total_bytes));
    printf("memory_info %d\n", free_bytes > 0 && free_bytes <= total_bytes);
}

static __global__ void append_kernel(int *log, int value) { log[atomicAdd(log, 1) + 1] = value; }

static void streams() {
    enum { LOG = 1 + 4 * 32 };
    int *log = device_array<int>(LOG);
    cudaStream_t first, second;
    cudaEvent_t start, end;
    cuda_check(cudaStreamCreate(&first));
    cuda_check(cudaStreamCreate(&second));
    cuda_check(cudaEventCreate(&start));
    cuda_check(cudaEventCreate(&end));
    cuda_check(cudaEventRecord(start, first));
    cuda_check(cudaMemsetAsync(log, 0, LOG * sizeof(int), first));
    for (int i = 0; i < 4; i++) {
        launch(append_kernel, 1, 32, 0, first, log, 10 + i);
        cuda_check(cudaEventRecord(end, first));
        cuda_check(cudaStreamWaitEvent(second, end, 0));
        if (i == 0) memset(log, 0, sizeof(int)); // done at once: the host sees and changes the result
    }
    cuda_check(cudaEventSynchronize(end));
    cuda_check(cudaStreamSynchronize(second));
    float milliseconds = -1;
    cuda_check(cudaEventElapsedTime(&milliseconds, start, end));
    printf("event_time %d\n", milliseconds >= 0 && milliseconds < 60000);
    show_and_free("stream_log", log, LOG);
    cuda_check(cudaEventDestroy(start));
    cuda_check(cudaEventDestroy(end));
    cuda_check(cudaStreamDestroy(first));
    cuda_check(cudaStreamDestroy(second));
}

int main() {
    indices();
    shared();
    barriers();
    shuffles();
    reductions();
    atomics();
    memory();
    streams();
    return 0;
}
