// The running mean of weights over steps (Polyak and Juditsky 1992; Llama 3 paper, 3.4.3).
#ifndef LLMC_KERNELS_AVERAGE_H
#define LLMC_KERNELS_AVERAGE_H

#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// mean [n] += (x [n] - mean) / samples: after samples = 1, 2, ... it is the mean of all x so far. With samples 1 mean = x,
// whatever it was. fp32, where each sample adds a rounding of half a last place: after k the error is at most about k / 2
// of them, and what moves the mean by less than that is lost. Pointers are 16-byte aligned.
void average_update(float *mean, const float *x, int64_t samples, size_t n, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
