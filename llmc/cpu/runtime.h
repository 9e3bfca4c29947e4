// What the files of the CPU's runtime share.
#ifndef LLMC_CPU_RUNTIME_H
#define LLMC_CPU_RUNTIME_H

#include "cuda_runtime.h"

#pragma GCC visibility push(hidden)

// Returns the error, after keeping it for cudaGetLastError.
cudaError_t host_keep_error(cudaError_t error);

// Waits until the default stream has done what it and all blocking streams hold.
void host_wait_default_stream();

// Waits until the stream (all streams) has done what it holds.
void host_wait_stream(cudaStream_t stream);
void host_wait_all();

// What a thread that captures a stream may not call: returns CUDA's error, and the capture is void; else cudaSuccess.
cudaError_t host_refuse_in_capture();

// Whether to do late, in a seed's order, what CUDA need not do at once; drawn. False in the other modes.
bool host_draws_late();

// For tests of tests: whether the runtime's function `name` is to do nothing. LLMC_HOST_SKIP lists calls, separated by
// commas: each as the offset, in this library, of the instruction after the call. It may be the call of the function
// itself or one further up that led to it. Each is told once on stderr.
bool host_skips(const char *name);

#pragma GCC visibility pop

#endif
