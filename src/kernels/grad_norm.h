// Sums over everything: the norm of all gradients, and the loss of a batch. Two stages in a fixed order, no atomics.
#ifndef LLMC_KERNELS_GRAD_NORM_H
#define LLMC_KERNELS_GRAD_NORM_H

#include "target/types.h"
#include <cuda_runtime.h>

#ifdef __cplusplus
extern "C" {
#endif

// Floats that global_norm needs as scratch.
size_t global_norm_scratch(void);

// norm [1] = sqrt(sum of grads[i]^2), i < n. Not finite if a gradient is not. grads 16-byte aligned.
void global_norm(float *norm, float *scratch, const float *grads, size_t n, cudaStream_t stream);

// sum [1] += sum of losses [n].
void sum_losses(float *sum, const float *losses, int n, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
