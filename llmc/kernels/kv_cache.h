// Filling one layer's cache of keys and values (kernels/kv_cache_layout.h), from which attention_decode reads.
// Pointers are on the device and 16-byte aligned.
#ifndef LLMC_KERNELS_KV_CACHE_H
#define LLMC_KERNELS_KV_CACHE_H

#include "kernels/kv_cache_layout.h"

#ifdef __cplusplus
extern "C" {
#endif

// The cache's keys and values of tokens 0 to T - 1 of row `row` = those in qkv [T, (NH + 2 NKV) HD], whose keys are
// rotated already.
void kv_cache_store(KvCache cache, const floatX *qkv, int row, int T, cudaStream_t stream);

// qkv [n, (NH + 2 NKV) HD] has the new tokens. Their queries are rotated in place; their keys are rotated into the cache
// and their values copied there (qkv's own keys and values stay as they are). table: rope_table's, of at least as many
// positions as occur.
void kv_cache_append(floatX *qkv, KvCache cache, const float *table, NewTokens tokens, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
