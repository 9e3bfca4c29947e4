// What adapters do to a slice of columns of a wider matrix; their products are device/matmul.h's.
#ifndef LLMC_KERNELS_LORA_H
#define LLMC_KERNELS_LORA_H

#include <cuda_runtime.h>

#include "device/types.h"

#ifdef __cplusplus
extern "C" {
#endif

// y [N,width]: columns [first, first + cols) += scale * x [N,cols], the sum in fp32 and rounded once. width, first and cols
// are multiples of 16, pointers 16-byte aligned.
void lora_add(floatX *y, const floatX *x, float scale, int N, int width, int first, int cols, cudaStream_t stream);

// x [N,cols] = scale * columns [first, first + cols) of y [N,width].
void lora_take(floatX *x, const floatX *y, float scale, int N, int width, int first, int cols, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
