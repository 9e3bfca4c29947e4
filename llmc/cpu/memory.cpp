// Device memory, copies, streams and events on the CPU: memory is the host's, and everything happens in order and at once.
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cuda_runtime.h"

enum { DEVICE_ALIGN = 256, COPY_UNIT = 4096, PARALLEL_COPY = 8 << 20 };

static cudaError_t last_error = cudaSuccess;

static cudaError_t keep(cudaError_t error) {
    if (error != cudaSuccess) last_error = error;
    return error;
}

static size_t physical_bytes(int name) { return (size_t)sysconf(name) * (size_t)sysconf(_SC_PAGESIZE); }

// What the kernel can give without swapping: free pages and those of the page cache.
static size_t available_bytes() {
    size_t kib = 0;
    char line[256];
    FILE *file = fopen("/proc/meminfo", "r");
    if (!file) return physical_bytes(_SC_AVPHYS_PAGES);
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %zu kB", &kib) == 1) break;
    fclose(file);
    return kib ? kib * 1024 : physical_bytes(_SC_AVPHYS_PAGES);
}

// Large copies are shared among the threads, one long piece each: one thread alone does not fill the memory bus, and in
// long pieces memcpy writes past the caches.
static void copy(char *to, const char *from, size_t bytes) {
    const size_t threads = (size_t)omp_get_max_threads(), piece = bytes / threads / COPY_UNIT * COPY_UNIT;
    if (bytes < PARALLEL_COPY || threads == 1) {
        memmove(to, from, bytes);
        return;
    }
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (size_t i = 0; i < threads; i++)
        memcpy(to + i * piece, from + i * piece, i + 1 == threads ? bytes - i * piece : piece);
}

extern "C" {

cudaError_t cudaMalloc(void **pointer, size_t bytes) {
    if (bytes > physical_bytes(_SC_PHYS_PAGES)) return keep(cudaErrorMemoryAllocation);
    if (posix_memalign(pointer, DEVICE_ALIGN, bytes ? bytes : 1) != 0) return keep(cudaErrorMemoryAllocation);
    memset(*pointer, 0xFF, bytes);
    return cudaSuccess;
}

cudaError_t cudaFree(void *pointer) {
    free(pointer);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **pointer, size_t bytes) { return cudaMalloc(pointer, bytes); }
cudaError_t cudaFreeHost(void *pointer) { return cudaFree(pointer); }

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind) {
    copy((char *)to, (const char *)from, bytes);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
    return cudaMemcpy(to, from, bytes, kind);
}

cudaError_t cudaMemset(void *pointer, int value, size_t bytes) {
    memset(pointer, value, bytes);
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *pointer, int value, size_t bytes, cudaStream_t) {
    return cudaMemset(pointer, value, bytes);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    *free_bytes = available_bytes();
    *total_bytes = physical_bytes(_SC_PHYS_PAGES);
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream) {
    *stream = nullptr;
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) { return cudaStreamCreate(stream); }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }

struct HostEvent {
    struct timespec time;
};

cudaError_t cudaEventCreate(cudaEvent_t *event) {
    *event = (cudaEvent_t)calloc(1, sizeof(HostEvent));
    return *event ? cudaSuccess : keep(cudaErrorMemoryAllocation);
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) { return cudaEventCreate(event); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    free(event);
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
    clock_gettime(CLOCK_MONOTONIC, &event->time);
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end) {
    *milliseconds = (float)((double)(end->time.tv_sec - start->time.tv_sec) * 1e3 +
                            (double)(end->time.tv_nsec - start->time.tv_nsec) * 1e-6);
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void) { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int *count) {
    *count = 1;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : keep(cudaErrorInvalidValue); }
cudaError_t cudaGetDevice(int *device) {
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device) {
    if (device != 0) return keep(cudaErrorInvalidValue);
    *properties = {};
    strcpy(properties->name, "CPU");
    properties->totalGlobalMem = physical_bytes(_SC_PHYS_PAGES);
    properties->multiProcessorCount = omp_get_max_threads();
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void) {
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
    case cudaSuccess:
        return "no error";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    default:
        return "invalid argument";
    }
}
}
