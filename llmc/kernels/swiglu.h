// SwiGLU (Shazeer 2020): out = silu(gate) * up with silu(x) = x * sigmoid(x). A row of gate_up holds its F gates, then
// its F ups. F is a multiple of 16.
#ifndef LLMC_KERNELS_SWIGLU_H
#define LLMC_KERNELS_SWIGLU_H

#include <cuda_runtime.h>

#include "device/types.h"

#ifdef __cplusplus
extern "C" {
#endif

// out [N,F] =; gate_up [N,2F].
void swiglu_forward(floatX *out, const floatX *gate_up, int N, int F, cudaStream_t stream);

// dgate_up [N,2F] =; dout [N,F], gate_up [N,2F] as the forward had it. dgate_up may be gate_up.
void swiglu_backward(floatX *dgate_up, const floatX *dout, const floatX *gate_up, int N, int F, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
