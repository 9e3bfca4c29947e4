// Attention of one new token a row over the row's cache (kernels/kv_cache.h): softmax(q K^T / sqrt(HD)) V, grouped-query,
// query head h using key/value head h / (NH / NKV). The keys are split over blocks, so that one row fills a GPU, and a
// second pass combines the splits (Dao et al.: Flash-Decoding, 2023). A split is always the same 256 tokens, hence a row's
// result has the same bits whatever rows are computed beside it. No atomics.
#ifndef LLMC_KERNELS_ATTENTION_DECODE_H
#define LLMC_KERNELS_ATTENTION_DECODE_H

#include "device/types.h"
#include <cuda_runtime.h>

#ifdef __cplusplus
extern "C" {
#endif

// Floats that attention_decode needs as scratch for n rows of up to `length` tokens.
size_t attention_decode_scratch(int n, int length, int NH, int HD);

// out: [n, NH*HD] =.  qkv: [n, (NH + 2 NKV) HD], of which the (rotated) queries are read. Row i sees the tokens
// 0 .. positions[i] of cache row rows[i], its own among them. rows, positions: [n] on the device; length: the largest
// position + 1, at most capacity. HD: a multiple of 16 up to 256; NH a multiple of NKV; n at most 65535.
void attention_decode(floatX *out, float *scratch, const floatX *qkv, const floatX *keys, const floatX *values,
                      const int *rows, const int *positions, int n, int length, int capacity, int NH, int NKV, int HD,
                      cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
