// Attention with grouped queries: softmax(Q K^T / sqrt(HD)) V over the keys that AttentionMask lets a query see.
// It is tiled, with an online softmax: nothing of size T x T is ever in memory, and K and V are not copied for each query
// head (Dao: FlashAttention-2, arXiv 2307.08691). The same inputs give the same bits: sums of floats have a fixed order.
//
// AttentionShape and AttentionMask: see kernels/attention_shape.h. Pointers are on the device.
#ifndef LLMC_KERNELS_ATTENTION_H
#define LLMC_KERNELS_ATTENTION_H

#include <cuda_runtime.h>

#include "device/types.h"
#include "kernels/attention_shape.h"

#ifdef __cplusplus
extern "C" {
#endif

// out [B, T, NH*HD] =; lse [B, NH, T] = the natural logarithm of the sum of exp(score / sqrt(HD)), which the backward
// pass needs. qkv [B, T, (NH + 2 NKV) HD].
void attention_forward(floatX *out, float *lse, const floatX *qkv, AttentionMask mask, AttentionShape shape,
                       cudaStream_t stream);

// dqkv [B, T, (NH + 2 NKV) HD] =; scratch [attention_backward_scratch(shape)] is overwritten, and aligned to 16 bytes. dout and
// out [B, T, NH*HD]; qkv and lse are the forward pass'.
void attention_backward(floatX *dqkv, float *scratch, const floatX *dout, const floatX *out, const floatX *qkv,
                        const float *lse, AttentionMask mask, AttentionShape shape, cudaStream_t stream);

// Floats of attention_backward's scratch: about B * T * NH * HD, with T and HD filled up to whole tiles.
size_t attention_backward_scratch(AttentionShape shape);

#ifdef __cplusplus
}
#endif
#endif
