// Attention of new tokens over their rows' cache (kernels/kv_cache_layout.h): softmax(q K^T / sqrt(HD)) V with
// grouped queries. The keys are split over blocks, so that one row fills a GPU, and a second pass combines the splits
// (Dao et al.: Flash-Decoding, 2023). A split is always the same 256 tokens; hence a token's result has the same
// bits whatever tokens are computed beside it, and wherever the pages of its row are. There are no atomics.
#ifndef LLMC_KERNELS_ATTENTION_DECODE_H
#define LLMC_KERNELS_ATTENTION_DECODE_H

#include "kernels/kv_cache_layout.h"

#ifdef __cplusplus
extern "C" {
#endif

// Floats that attention_decode needs as scratch for n rows of up to `length` tokens.
size_t attention_decode_scratch(int n, int length, AttentionShape shape);

// out [n, NH*HD] =. qkv [n, (NH + 2 NKV) HD], of which the rotated queries are read. Token i sees the tokens
// 0 .. positions[i] of its row of the cache, its own among them. length: the largest position + 1. Pointers are on the
// device.
void attention_decode(floatX *out, float *scratch, const floatX *qkv, KvCache cache, NewTokens tokens, int length,
                      cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
