// The CPU's stand-in for the part of <cuda_runtime.h> that this project uses: the same kernels compile with g++ and run on
// the CPU. Device memory is the host's, and is born poisoned (every byte 0xFF: NaN as bf16 and as float). Streams are CUDA's;
// by default the call that queues work returns after it is done (streams.h has the other modes).
#ifndef LLMC_CPU_CUDA_RUNTIME_H
#define LLMC_CPU_CUDA_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidResourceHandle = 400,
    cudaErrorNotReady = 600,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901,
    cudaErrorStreamCaptureUnmatched = 903,
} cudaError_t;

typedef enum {
    cudaMemcpyHostToHost = 0,
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost = 2,
    cudaMemcpyDeviceToDevice = 3,
    cudaMemcpyDefault = 4,
} cudaMemcpyKind;

enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaHostAllocMapped = 2 };

typedef struct HostStream *cudaStream_t;
typedef struct HostEvent *cudaEvent_t;
typedef struct HostGraph *cudaGraph_t;
typedef struct HostGraphExec *cudaGraphExec_t;
typedef enum { cudaStreamCaptureModeThreadLocal = 1 } cudaStreamCaptureMode;

struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
    int multiProcessorCount, major, minor;
};

cudaError_t cudaMalloc(void **pointer, size_t bytes);
cudaError_t cudaFree(void *pointer);
cudaError_t cudaMallocHost(void **pointer, size_t bytes);
cudaError_t cudaHostAlloc(void **pointer, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void *pointer);
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemset(void *pointer, int value, size_t bytes);
cudaError_t cudaMemsetAsync(void *pointer, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);
cudaError_t cudaStreamCreate(cudaStream_t *stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventCreate(cudaEvent_t *event);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaDeviceSynchronize(void);
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device);
cudaError_t cudaDeviceGetPCIBusId(char *text, int length, int device);
cudaError_t cudaDeviceGetStreamPriorityRange(int *lowest, int *highest);
cudaError_t cudaGetLastError(void);
const char *cudaGetErrorString(cudaError_t error);

#ifdef __cplusplus
}

// ---- what kernels see

#include "alignment.h"
#include "fiber.h"
#include "streams.h"
#include "vector_types.h"

#define __global__ inline __attribute__((always_inline)) // into the loop over threads
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

#define threadIdx (host_thread->index)
#define blockIdx (host_block->index)
#define blockDim (host_block->block_dim)
#define gridDim (host_block->grid_dim)

// Every thread of the block must come to the same call; else the run ends with a report of kernel, block and thread.
inline void __syncthreads(const char *file = __builtin_FILE(), int line = __builtin_LINE()) {
    host_block_rendezvous(
        nullptr, [](void **, int) {}, file, line);
}

inline void __syncwarp(unsigned = 0xffffffffu, const char *file = __builtin_FILE(), int line = __builtin_LINE()) {
    host_warp_rendezvous(
        nullptr, [](void **) {}, file, line);
}

// One rendezvous: each lane gives a value and receives that of the lane which `source(lane)` names.
template <typename T, typename Source> T host_shuffle(T value, Source source, const char *file, int line) {
    struct Slot {
        T given, received;
    } slot = {value, value};
    host_warp_rendezvous(
        &slot,
        [source](void **lanes) {
            for (int lane = 0; lane < 32; lane++)
                ((Slot *)lanes[lane])->received = ((Slot *)lanes[source(lane)])->given;
        },
        file, line);
    return slot.received;
}

template <typename T>
T __shfl_sync(unsigned, T value, int source, int width = 32, const char *file = __builtin_FILE(),
              int line = __builtin_LINE()) {
    struct Slot {
        T given, received;
        int source;
    } slot = {value, value, source};
    host_warp_rendezvous(
        &slot,
        [width](void **lanes) {
            for (int lane = 0; lane < 32; lane++) {
                Slot *mine = (Slot *)lanes[lane];
                int from = lane / width * width + mine->source % width;
                mine->received = ((Slot *)lanes[from])->given;
            }
        },
        file, line);
    return slot.received;
}

template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask, const char *file = __builtin_FILE(), int line = __builtin_LINE()) {
    return host_shuffle(
        value, [mask](int lane) { return lane ^ mask; }, file, line);
}

template <typename T>
T __shfl_down_sync(unsigned, T value, int delta, const char *file = __builtin_FILE(), int line = __builtin_LINE()) {
    return host_shuffle(
        value, [delta](int lane) { return lane + delta < 32 ? lane + delta : lane; }, file, line);
}

template <typename T>
T __shfl_up_sync(unsigned, T value, int delta, const char *file = __builtin_FILE(), int line = __builtin_LINE()) {
    return host_shuffle(
        value, [delta](int lane) { return lane >= delta ? lane - delta : lane; }, file, line);
}

// Integer atomics only: floating-point ones would make results depend on the order of threads.
template <typename T> T atomicAdd(T *address, T value) {
    static_assert((T)1 / 2 == 0, "atomicAdd is for integers: sums of floats must have a fixed order");
    return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
template <typename T> T atomicMax(T *address, T value) {
    static_assert((T)1 / 2 == 0, "atomicMax is for integers");
    T old = __atomic_load_n(address, __ATOMIC_RELAXED);
    while (old < value &&
           !__atomic_compare_exchange_n(address, &old, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
}

template <typename T> T min(T a, T b) { return b < a ? b : a; }
template <typename T> T max(T a, T b) { return a < b ? b : a; }

inline uint32_t __float_as_uint(float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, 4);
    return bits;
}
inline float __uint_as_float(uint32_t bits) {
    float x;
    __builtin_memcpy(&x, &bits, 4);
    return x;
}
#endif
#endif
