// Where a token's keys and values stand in a layer's cache (kernels/kv_cache.h), for kernels.
#ifndef LLMC_KERNELS_KV_CACHE_LAYOUT_H
#define LLMC_KERNELS_KV_CACHE_LAYOUT_H

#include "kernels/kv_cache.h"

struct CacheSizes {
    int capacity, NH, NKV, HD;

    __host__ __device__ int qkv_stride() const { return (NH + 2 * NKV) * HD; } // elements from one token to the next
    // Element 0 of the key at `position`; the next elements follow KV_CACHE_BLOCK apart.
    __device__ size_t key(int row, int kv, int position) const {
        return head(row, kv) + (size_t)(position / KV_CACHE_BLOCK) * HD * KV_CACHE_BLOCK + position % KV_CACHE_BLOCK;
    }
    __device__ size_t value(int row, int kv, int position) const { return head(row, kv) + (size_t)position * HD; }

  private:
    __device__ size_t head(int row, int kv) const { return ((size_t)row * NKV + kv) * capacity * HD; }
};

#endif
