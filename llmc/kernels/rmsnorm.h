// RMSNorm (Zhang and Sennrich 2019): out = x * rstd * weight with rstd = 1 / sqrt(mean(x^2) + eps), over rows of C.
// Statistics are fp32. C is a multiple of 16, at most 32768. Pointers are 16-byte aligned.
#ifndef LLMC_KERNELS_RMSNORM_H
#define LLMC_KERNELS_RMSNORM_H

#include <cuda_runtime.h>
#include <stdbool.h>

#include "device/types.h"

#ifdef __cplusplus
extern "C" {
#endif

// out [N,C] =, rstd [N] =; x [N,C], weight [C].
void rmsnorm_forward(floatX *out, float *rstd, const floatX *x, const floatX *weight, int N, int C, float eps,
                     cudaStream_t stream);

// residual_out [N,C] = residual + branch_out, rounded to floatX; out [N,C] = and rstd [N] = its norm (of the rounded sum).
// residual_out may be residual.
void add_rmsnorm_forward(floatX *residual_out, floatX *out, float *rstd, const floatX *residual,
                         const floatX *branch_out, const floatX *weight, int N, int C, float eps, cudaStream_t stream);

// Floats that rmsnorm_backward needs as scratch.
size_t rmsnorm_backward_scratch(int C);

// dx [N,C] = dresidual + the gradient through the norm; dweight [C] =, or += with accumulate, summed in fp32 in a fixed order.
// dresidual [N,C] is the gradient that reaches x past the norm: NULL for none, may be dx. x and rstd as the forward had
// and left them. scratch: rmsnorm_backward_scratch(C) floats.
void rmsnorm_backward(floatX *dx, float *dweight, float *scratch, const floatX *dout, const floatX *dresidual,
                      const floatX *x, const floatX *weight, const float *rstd, bool accumulate, int N, int C,
                      cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
