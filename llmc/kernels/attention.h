// Causal attention within documents, grouped-query: softmax(Q K^T / sqrt(HD)) V over the visible positions.
// Token i of a row sees token j iff doc_start[i] <= j <= i and not (begin <= j < end), with begin and end of hidden[i].
// Query head h uses key/value head h / (NH / NKV).
// Tiled with an online softmax: nothing of size T x T is ever in memory, and K and V are not copied per query
// head (Dao: FlashAttention-2, arXiv 2307.08691). Same inputs, same bits: no atomics.
//
// doc_start: [B*T], index within the row at which the token's document begins: 0 <= doc_start[t] <= t,
// non-decreasing within a row. hidden: [B*T, 2], indices within the row, or NULL, which costs nothing: an interval of keys
// that the token does not see though they are its document's, 0 <= begin <= end <= t (begin == end: none). So several
// answers stand behind one prompt, and none sees another. HD: a multiple of 16 up to 256; NH a multiple of NKV. T: any. Pointers are on
// the device.
#ifndef LLMC_KERNELS_ATTENTION_H
#define LLMC_KERNELS_ATTENTION_H

#include "device/types.h"
#include <cuda_runtime.h>

#ifdef __cplusplus
extern "C" {
#endif

// out: [B,T,NH*HD] =.  lse: [B,NH,T] =, natural logarithm of the sum of exp(score / sqrt(HD)), for the
// backward pass. qkv: [B,T,(NH+2*NKV)*HD], a token's query heads, key heads, value heads.
void attention_forward(floatX *out, float *lse, const floatX *qkv, const int *doc_start, const int *hidden, int B,
                       int T, int NH, int NKV, int HD, cudaStream_t stream);

// dqkv: [B,T,(NH+2*NKV)*HD] =.  scratch: [B,NH,T] overwritten.  dout, out: [B,T,NH*HD]; qkv, lse as in the
// forward pass.
void attention_backward(floatX *dqkv, float *scratch, const floatX *dout, const floatX *out, const floatX *qkv,
                        const float *lse, const int *doc_start, const int *hidden, int B, int T, int NH, int NKV,
                        int HD, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
