// What the CUDA runtime says of the machine, for TARGET=cuda-on-cpu: GPUs that are not there, by NVIDIA's own declarations.
// Memory, copies, streams and events are the CPU target's (llmc/cpu); its functions that are replaced here are called host_*.
//
//   LLMC_HOST_DEVICE=h100|a100|rtx4090   which GPU (default h100)
//   LLMC_HOST_DEVICES=N                  how many (default 8)
//   LLMC_STANDIN_NO_MEMORY=N             the N-th allocation on the device fails, and those after it
#include <cuda_runtime.h>
#include <limits.h>
#include <map>
#include <mutex>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "devices.h"
#include "guard.h"
#include "standins.h"

// Figures of the compute capabilities' table in NVIDIA's CUDA C++ Programming Guide; names, multiprocessors, memory and L2
// of NVIDIA's data sheets.
struct Device {
    const char *key, *name;
    int major, minor, multiprocessors, l2_mib, shared_kib, threads;
    size_t memory_gib;
};

static const Device DEVICES[] = {
    {"h100", "NVIDIA H100 80GB HBM3", 9, 0, 132, 50, 228, 2048, 80},
    {"a100", "NVIDIA A100-SXM4-80GB", 8, 0, 108, 40, 164, 2048, 80},
    {"rtx4090", "NVIDIA GeForce RTX 4090", 8, 9, 128, 72, 100, 1536, 24},
};

static const size_t KIB = 1024, MIB = 1024 * KIB, GIB = 1024 * MIB;

static std::mutex lock;
struct Block {
    size_t bytes;
    void *raw; // what llmc/cpu allocated
};

typedef std::map<uintptr_t, Block> Blocks; // by address

static Blocks allocations, pinned;
static size_t allocated;
static long allocations_asked;
static thread_local int current_device;
static thread_local cudaError_t last_error = cudaSuccess;

extern "C" cudaError_t host_cudaMalloc(void **pointer, size_t bytes);
extern "C" cudaError_t host_cudaFree(void *pointer);
extern "C" cudaError_t host_cudaMallocHost(void **pointer, size_t bytes);
extern "C" cudaError_t host_cudaHostAlloc(void **pointer, size_t bytes, unsigned flags);
extern "C" cudaError_t host_cudaFreeHost(void *pointer);
extern "C" cudaError_t host_cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind);
extern "C" cudaError_t host_cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                                            cudaStream_t stream);
extern "C" cudaError_t host_cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);
extern "C" cudaError_t host_cudaGetLastError(void);

cudaError_t standin_keep_error(cudaError_t error) {
    if (error != cudaSuccess) last_error = error;
    return error;
}

static const Device &device() {
    const char *wanted = getenv("LLMC_HOST_DEVICE");
    for (const Device &d : DEVICES)
        if (!wanted || strcmp(wanted, d.key) == 0) return d;
    fprintf(stderr, "llmc: LLMC_HOST_DEVICE is '%s', expected h100, a100 or rtx4090\n", wanted);
    exit(2);
}

static int device_count() {
    const char *wanted = getenv("LLMC_HOST_DEVICES");
    return wanted ? atoi(wanted) : 8;
}

// ---- memory

// Free is what the GPU would have left, but no more than this machine has.
static size_t free_bytes() {
    size_t here = 0, all = 0;
    host_cudaMemGetInfo(&here, &all);
    const size_t left = device().memory_gib * GIB - allocated;
    return left < here ? left : here;
}

static bool is_to_fail() {
    const char *nth = getenv("LLMC_STANDIN_NO_MEMORY");
    return ++allocations_asked >= (nth ? atol(nth) : LONG_MAX);
}

static bool holds(const Blocks &memory, uintptr_t address, size_t bytes) {
    auto after = memory.upper_bound(address);
    if (after == memory.begin()) return false;
    const auto &[start, block] = *--after;
    return bytes <= block.bytes && address - start <= block.bytes - bytes;
}

bool standin_on_device(const void *address, size_t bytes) {
    std::lock_guard<std::mutex> hold(lock);
    return holds(allocations, (uintptr_t)address, bytes) || holds(pinned, (uintptr_t)address, bytes);
}

// Takes it out of the list; false: it is not there. NULL is nothing to free.
static bool forget(Blocks &memory, void *pointer, Block *block) {
    auto known = memory.find((uintptr_t)pointer);
    if (known == memory.end()) return !pointer;
    *block = known->second;
    memory.erase(known);
    return true;
}

static cudaError_t note_pinned(void **pointer, size_t bytes, cudaError_t error) {
    if (error != cudaSuccess) return standin_keep_error(error);
    std::lock_guard<std::mutex> hold(lock);
    pinned[(uintptr_t)*pointer] = {bytes, *pointer};
    return cudaSuccess;
}

extern "C" {

cudaError_t cudaMalloc(void **pointer, size_t bytes) {
    std::lock_guard<std::mutex> hold(lock);
    void *raw = nullptr;
    if (is_to_fail() || bytes > free_bytes()) return standin_keep_error(cudaErrorMemoryAllocation);
    const cudaError_t error = host_cudaMalloc(&raw, guard_is_on() ? guard_room(bytes) : bytes);
    if (error != cudaSuccess) return standin_keep_error(error);
    *pointer = guard_is_on() ? guard_begin(raw) : raw;
    if (guard_is_on()) guard_add(*pointer, bytes);
    allocations[(uintptr_t)*pointer] = {bytes, raw};
    allocated += bytes;
    return cudaSuccess;
}

cudaError_t cudaFree(void *pointer) {
    Block block = {0, nullptr};
    {
        std::lock_guard<std::mutex> hold(lock);
        if (!forget(allocations, pointer, &block)) return standin_keep_error(cudaErrorInvalidValue);
        allocated -= block.bytes;
    }
    cudaDeviceSynchronize(); // as CUDA does; later nothing needs it
    if (guard_is_on() && pointer) guard_remove(pointer);
    return host_cudaFree(block.raw);
}

cudaError_t cudaMallocHost(void **pointer, size_t bytes) {
    return note_pinned(pointer, bytes, host_cudaMallocHost(pointer, bytes));
}

cudaError_t cudaHostAlloc(void **pointer, size_t bytes, unsigned flags) {
    return note_pinned(pointer, bytes, host_cudaHostAlloc(pointer, bytes, flags));
}

cudaError_t cudaFreeHost(void *pointer) {
    Block block = {0, nullptr};
    {
        std::lock_guard<std::mutex> hold(lock);
        if (!forget(pinned, pointer, &block)) return standin_keep_error(cudaErrorInvalidValue);
    }
    return host_cudaFreeHost(pointer);
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    guard_open();
    const cudaError_t error = host_cudaMemcpy(to, from, bytes, kind);
    guard_close();
    return error;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    guard_open();
    const cudaError_t error = host_cudaMemcpyAsync(to, from, bytes, kind, stream);
    guard_close();
    return error;
}

cudaError_t cudaMemGetInfo(size_t *free, size_t *total) {
    std::lock_guard<std::mutex> hold(lock);
    *free = free_bytes();
    *total = device().memory_gib * GIB;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count) {
    *count = device_count();
    return *count > 0 ? cudaSuccess : standin_keep_error(cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int number) {
    if (number < 0 || number >= device_count()) return standin_keep_error(cudaErrorInvalidDevice);
    current_device = number;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *number) {
    *number = current_device;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int number) {
    if (number < 0 || number >= device_count()) return standin_keep_error(cudaErrorInvalidDevice);
    const Device &d = device();
    *properties = {};
    snprintf(properties->name, sizeof properties->name, "%s", d.name);
    properties->totalGlobalMem = d.memory_gib * GIB;
    properties->major = d.major;
    properties->minor = d.minor;
    properties->multiProcessorCount = d.multiprocessors;
    properties->l2CacheSize = (int)(d.l2_mib * MIB);
    properties->sharedMemPerBlock = 48 * KIB;
    properties->sharedMemPerBlockOptin = (d.shared_kib - 1) * KIB; // 1 KiB is the system's
    properties->sharedMemPerMultiprocessor = d.shared_kib * KIB;
    properties->reservedSharedMemPerBlock = KIB;
    properties->regsPerBlock = properties->regsPerMultiprocessor = 64 * 1024;
    properties->warpSize = 32;
    properties->maxThreadsPerBlock = 1024;
    properties->maxThreadsPerMultiProcessor = d.threads;
    properties->pciBusID = number + 1;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int length, int number) {
    if (number < 0 || number >= device_count() || length < 13) return standin_keep_error(cudaErrorInvalidValue);
    snprintf(text, (size_t)length, "0000:%02X:00.0", (number + 1) & 0xff);
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void) {
    const cudaError_t error = last_error, host = host_cudaGetLastError();
    last_error = cudaSuccess;
    return error == cudaSuccess ? host : error;
}

const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
    case cudaSuccess:
        return "no error";
    case cudaErrorInvalidValue:
        return "invalid argument";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorNoDevice:
        return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
        return "invalid device ordinal";
    case cudaErrorNotReady:
        return "device not ready";
    case cudaErrorStreamCaptureUnsupported:
        return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated:
        return "operation failed due to a previous error during capture";
    case cudaErrorInvalidConfiguration:
        return "invalid configuration argument";
    case cudaErrorInvalidResourceHandle:
        return "invalid resource handle";
    default:
        return "unknown error";
    }
}
}
