// Sums and maxima over the lanes of a warp, over quads of lanes and over a block. Every thread gets the result, and the
// order of additions is fixed, so that results have the same bits in every run. On the CPU each call is one rendezvous.
// The array forms reduce each of the N elements on its own, in the same single rendezvous.
#ifndef LLMC_DEVICE_REDUCE_H
#define LLMC_DEVICE_REDUCE_H

#include <stdint.h>

#include "device/launch.h"

__device__ __forceinline__ int lane_id() { return (int)(threadIdx.x % 32); }

struct AddOp {
    template <typename T> static __device__ __forceinline__ T combine(T a, T b) { return a + b; }
};
struct MaxOp {
    template <typename T> static __device__ __forceinline__ T combine(T a, T b) { return a < b ? b : a; }
};

#ifdef LLMC_TARGET_CPU

// value[0] = all of them, added in the order in which the butterfly of the GPU's shuffles adds them for lane 0.
template <typename Op, int Width, typename T> inline void reduce_tree(T *value) {
    for (int half = Width / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) value[i] = Op::combine(value[i], value[i + half]);
}

// x[i] over groups of `Width` consecutive lanes.
template <typename Op, int Width, int N, typename T> inline void lanes_reduce(T (&x)[N], const char *file, int line) {
    if constexpr (Width == 1) return;
    host_warp_rendezvous(
        x,
        [](void **lanes) {
            for (int i = 0; i < N; i++) {
                T value[32];
                for (int lane = 0; lane < 32; lane++) value[lane] = ((T *)lanes[lane])[i];
                for (int group = 0; group < 32; group += Width) reduce_tree<Op, Width>(value + group);
                for (int lane = 0; lane < 32; lane++) ((T *)lanes[lane])[i] = value[lane / Width * Width];
            }
        },
        file, line);
}

// Warps first, then the warps' results in order: the same order as on a GPU.
template <typename Op, typename T> inline T block_reduce(T x, const char *file, int line) {
    host_block_rendezvous(
        &x,
        [](void **threads, int n) {
            T total = T();
            for (int warp = 0; warp < n / 32; warp++) {
                T value[32];
                for (int lane = 0; lane < 32; lane++) value[lane] = *(T *)threads[warp * 32 + lane];
                reduce_tree<Op, 32>(value);
                total = warp == 0 ? value[0] : Op::combine(total, value[0]);
            }
            for (int t = 0; t < n; t++) *(T *)threads[t] = total;
        },
        file, line);
    return x;
}

#define LLMC_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define LLMC_SITE_ARGS file, line

#else

template <typename Op, int Width, int N, typename T> __device__ __forceinline__ void lanes_reduce(T (&x)[N], int) {
#pragma unroll
    for (int mask = Width / 2; mask > 0; mask /= 2)
#pragma unroll
        for (int i = 0; i < N; i++) x[i] = Op::combine(x[i], __shfl_xor_sync(0xffffffffu, x[i], mask));
}

template <typename Op, typename T> __device__ __forceinline__ T block_reduce(T x, int) {
    SHARED(T, partial, 32);
    T own[1] = {x};
    lanes_reduce<Op, 32>(own, 0);
    int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    int warps = blockDim.x * blockDim.y * blockDim.z / 32;
    if (thread % 32 == 0) partial[thread / 32] = own[0];
    __syncthreads();
    T total = partial[0];
    for (int warp = 1; warp < warps; warp++) total = Op::combine(total, partial[warp]);
    __syncthreads(); // `partial` may be written again by the next call
    return total;
}

#define LLMC_SITE int site = 0
#define LLMC_SITE_ARGS site

#endif

template <int N, typename T> __device__ __forceinline__ void warp_sum(T (&x)[N], LLMC_SITE) {
    lanes_reduce<AddOp, 32>(x, LLMC_SITE_ARGS);
}
template <int N, typename T> __device__ __forceinline__ void warp_max(T (&x)[N], LLMC_SITE) {
    lanes_reduce<MaxOp, 32>(x, LLMC_SITE_ARGS);
}
// Over groups of `Width` consecutive lanes, a power of two; with 1 each keeps its own.
template <int Width, int N, typename T> __device__ __forceinline__ void group_sum(T (&x)[N], LLMC_SITE) {
    lanes_reduce<AddOp, Width>(x, LLMC_SITE_ARGS);
}
// Over the four lanes 4q to 4q+3, which share the rows of a tensor-core fragment.
template <int N, typename T> __device__ __forceinline__ void quad_sum(T (&x)[N], LLMC_SITE) {
    lanes_reduce<AddOp, 4>(x, LLMC_SITE_ARGS);
}
template <int N, typename T> __device__ __forceinline__ void quad_max(T (&x)[N], LLMC_SITE) {
    lanes_reduce<MaxOp, 4>(x, LLMC_SITE_ARGS);
}

// x, of which all lanes of the warp have the same. It tells the GPU's compiler so, which then keeps x once for all of them, and
// knows that they do not part ways where x decides.
__device__ __forceinline__ int same_in_warp(int x) {
#ifdef LLMC_TARGET_CPU
    return x;
#else
    return __shfl_sync(0xffffffffu, x, 0);
#endif
}

__device__ __forceinline__ float warp_sum(float x, LLMC_SITE) {
    float own[1] = {x};
    lanes_reduce<AddOp, 32>(own, LLMC_SITE_ARGS);
    return own[0];
}
__device__ __forceinline__ float warp_max(float x, LLMC_SITE) {
    float own[1] = {x};
    lanes_reduce<MaxOp, 32>(own, LLMC_SITE_ARGS);
    return own[0];
}
__device__ __forceinline__ float block_sum(float x, LLMC_SITE) { return block_reduce<AddOp>(x, LLMC_SITE_ARGS); }
// Over the block that launch_block gives a kernel: one thread's sum is its own.
template <int THREADS, typename T> __device__ __forceinline__ T block_sum(T x, LLMC_SITE) {
    if constexpr (THREADS == 1) return x;
    return block_reduce<AddOp>(x, LLMC_SITE_ARGS);
}
__device__ __forceinline__ float block_max(float x, LLMC_SITE) { return block_reduce<MaxOp>(x, LLMC_SITE_ARGS); }

#endif
