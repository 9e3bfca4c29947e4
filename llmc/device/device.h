// Calls to the CUDA runtime, checked. Usable from C and from kernels' files.
#ifndef LLMC_DEVICE_DEVICE_H
#define LLMC_DEVICE_DEVICE_H

#include <cuda_runtime.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

// A failing call ends the program with code 1 and one line: what failed, where.
#define cuda_check(call) cuda_check_at((call), #call, __FILE__, __LINE__)

static inline void cuda_check_at(cudaError_t error, const char *call, const char *file, int line) {
    if (error == cudaSuccess) return;
    fprintf(stderr, "llmc: %s:%d: %s: %s\n", file, line, call, cudaGetErrorString(error));
    exit(1);
}

// Whether the host can read and write device memory by its address.
static inline int device_memory_is_host(void) {
#ifdef LLMC_TARGET_CPU
    return 1;
#else
    return 0;
#endif
}

#ifdef LLMC_TARGET_CPU
extern bool host_eager; // cpu/streams.h
#endif

// Whether the host goes on while the device does what was queued. On the cpu target queueing is computing, unless
// LLMC_HOST_STREAMS asks for late streams.
static inline bool device_runs_beside_host(void) {
#ifdef LLMC_TARGET_CPU
    return !host_eager;
#else
    return true;
#endif
}

#endif
