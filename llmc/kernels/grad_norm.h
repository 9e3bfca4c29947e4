// The norm of all gradients and the loss of a batch, each summed in two stages of a fixed order without atomics; and the sum
// of two gradients.
#ifndef LLMC_KERNELS_GRAD_NORM_H
#define LLMC_KERNELS_GRAD_NORM_H

#include <cuda_runtime.h>

#ifdef __cplusplus
extern "C" {
#endif

// Floats that sum_squares needs as scratch.
size_t sum_squares_scratch(void);

// sum [1] = sum of grads[i]^2, i < n. Not finite if a gradient is not. 16-byte aligned, sum excepted.
void sum_squares(float *sum, float *scratch, const float *grads, size_t n, cudaStream_t stream);

// sum [1] = parts[0] + parts[1] + ... + parts[n - 1], added one after the other.
void sum_in_order(float *sum, const float *parts, int n, cudaStream_t stream);

// norm [1] = sqrt(*sum).
void norm_of_squares(float *norm, const float *sum, cudaStream_t stream);

// to [n] += from [n], n a multiple of 4. 16-byte aligned.
void add_gradients(float *to, const float *from, size_t n, cudaStream_t stream);

// sum [1] += sum of losses [n]. 16-byte aligned.
void sum_losses(float *sum, const float *losses, int n, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
