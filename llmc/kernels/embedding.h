// Token embedding: each token's row of the table, and the sum of gradients into it.
#ifndef LLMC_KERNELS_EMBEDDING_H
#define LLMC_KERNELS_EMBEDDING_H

#include <cuda_runtime.h>

#include "device/types.h"

#ifdef __cplusplus
extern "C" {
#endif

// out [N,C] = weight[tokens[n]]. weight [V,C], tokens [N] in [0,V), C a multiple of 16. Ids are not checked here.
void embedding_forward(floatX *out, const int *tokens, const floatX *weight, int N, int C, cudaStream_t stream);

// dweight [V,C] += the rows of dout [N,C] at their tokens, summed in fp32 in the order of positions; rows of tokens that
// don't occur stay untouched. order [N]: the positions sorted stably by token. Deterministic.
void embedding_backward(float *dweight, const floatX *dout, const int *tokens, const int *order, int N, int C,
                        cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
