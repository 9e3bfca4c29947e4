// One layer's cache of keys and values, and where a token's stand in it.
#ifndef LLMC_KERNELS_KV_CACHE_LAYOUT_H
#define LLMC_KERNELS_KV_CACHE_LAYOUT_H

#include <cuda_runtime.h>

#include "device/types.h"
#include "kernels/attention_shape.h"

enum { KV_CACHE_BLOCK = 64 };

// The tokens of a row (a text) stand in pages of KV_CACHE_BLOCK tokens, anywhere in the cache; rows may share pages that are full.
// shape: B rows with room for T tokens each, T a multiple of KV_CACHE_BLOCK. Keys are stored rotated. What lies after a
// row's last token is never used, whatever it is. Pointers are on the device and, but for the table's, 16-byte aligned.
typedef struct {
    floatX *
        keys; // [pages, NKV, HD, KV_CACHE_BLOCK]: element by element, so that threads with a token each read neighbours
    floatX *values;   // [pages, NKV, KV_CACHE_BLOCK, HD]
    const int *table; // [B, T/KV_CACHE_BLOCK]: the pages of each row; those behind its last token are not read
    AttentionShape shape;
} KvCache;

// n new tokens of a cache's rows, n at most 65535: token i is row rows[i]'s, at positions[i] in [0, T). A row may have several.
typedef struct {
    const int *rows;      // [n] on the device
    const int *positions; // [n] on the device, none of them twice for a row
    int n;
} NewTokens;

#ifdef __cplusplus

// Elements of a cache, for kernels.
struct CacheLayout : KvCache {
    __host__ __device__ explicit CacheLayout(KvCache cache) : KvCache(cache) {}

    // Element 0 of a key; the next elements follow KV_CACHE_BLOCK apart.
    __device__ floatX *key(int row, int kv, int position) const {
        return keys + head(row, kv, position) + position % KV_CACHE_BLOCK;
    }
    __device__ floatX *value(int row, int kv, int position) const {
        return values + head(row, kv, position) + (size_t)(position % KV_CACHE_BLOCK) * shape.HD;
    }

  private:
    __device__ size_t head(int row, int kv, int position) const {
        const int page = table[(size_t)row * (shape.T / KV_CACHE_BLOCK) + position / KV_CACHE_BLOCK];
        return ((size_t)page * shape.NKV + kv) * KV_CACHE_BLOCK * shape.HD;
    }
};

#endif
#endif
