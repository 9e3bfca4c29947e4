// One layer's cache of keys and values, and where a token's stand in it.
#ifndef LLMC_KERNELS_KV_CACHE_LAYOUT_H
#define LLMC_KERNELS_KV_CACHE_LAYOUT_H

#include <cuda_runtime.h>

#include "device/types.h"
#include "kernels/attention_shape.h"

enum { KV_CACHE_BLOCK = 64 };

// shape: B rows (texts) with room for T tokens each, T a multiple of KV_CACHE_BLOCK. Keys are stored rotated. What lies
// after a row's last token is never used, whatever it is. Pointers are on the device and 16-byte aligned.
typedef struct {
    floatX *keys;   // [B, NKV, T/KV_CACHE_BLOCK, HD, KV_CACHE_BLOCK]: blocks of tokens, within one element by element,
                    // so that threads with a token each read neighbours
    floatX *values; // [B, NKV, T, HD]
    AttentionShape shape;
} KvCache;

// One new token for each of n rows of a cache, n at most 65535: token i is row rows[i]'s, at positions[i] in [0, T).
typedef struct {
    const int *rows;      // [n] on the device, none of them twice
    const int *positions; // [n] on the device
    int n;
} NewTokens;

#ifdef __cplusplus

// Elements of a cache, for kernels.
struct CacheLayout : KvCache {
    __host__ __device__ explicit CacheLayout(KvCache cache) : KvCache(cache) {}

    // Element 0 of a key; the next elements follow KV_CACHE_BLOCK apart.
    __device__ floatX *key(int row, int kv, int position) const {
        return keys + head(row, kv) + (size_t)(position / KV_CACHE_BLOCK) * shape.HD * KV_CACHE_BLOCK +
               position % KV_CACHE_BLOCK;
    }
    __device__ floatX *value(int row, int kv, int position) const {
        return values + head(row, kv) + (size_t)position * shape.HD;
    }

  private:
    __device__ size_t head(int row, int kv) const { return ((size_t)row * shape.NKV + kv) * shape.T * shape.HD; }
};

#endif
#endif
