// The keys and values of the tokens that a model has seen, kept for the tokens to come. A layer's cache has `rows`
// rows (texts) of up to `capacity` tokens, a multiple of KV_CACHE_BLOCK, and stands as attention_decode reads it:
//
//   keys    [rows, NKV, capacity/KV_CACHE_BLOCK, HD, KV_CACHE_BLOCK]   blocks of tokens, within one element by element,
//                                                                      so that threads with a token each read neighbours
//   values  [rows, NKV, capacity, HD]
//
// Keys are stored rotated. What lies behind a row's last token is never used, whatever it is. NH a multiple of NKV; HD a
// multiple of 16, at most 256. Pointers are on the device and 16-byte aligned.
#ifndef LLMC_KERNELS_KV_CACHE_H
#define LLMC_KERNELS_KV_CACHE_H

#include "device/types.h"
#include <cuda_runtime.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { KV_CACHE_BLOCK = 64 };

// Takes the first T tokens of row `row` from qkv [T, (NH + 2 NKV) HD], whose keys are rotated already.
void kv_cache_store(floatX *keys, floatX *values, const floatX *qkv, int row, int T, int capacity, int NH, int NKV,
                    int HD, cudaStream_t stream);

// One token for each of n rows: qkv [n, (NH + 2 NKV) HD] is token i of cache row rows[i], at position positions[i] in
// [0, capacity). Its queries are rotated in place; its keys are rotated into the cache and its values copied (qkv's own
// stay as they are). rows [n], without repetition, and positions [n] on the device; table: rope_table's, of at least
// `capacity` positions or as many as occur.
void kv_cache_append(floatX *qkv, floatX *keys, floatX *values, const float *table, const int *rows,
                     const int *positions, int n, int capacity, int NH, int NKV, int HD, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
