// Filling the cache of keys and values: a whole prompt, or new tokens with their rotation,
//   (a, b) = (x[i], x[i + HD/2])  becomes  (a cos - b sin, b cos + a sin)  of its position.
#include "kernels/kv_cache.h"

#include <assert.h>

#include "kernels/qkv_layout.h"
#include "kernels/rope_rotate.h"
#include "kernels/rows.h"

static_assert(KV_CACHE_BLOCK % CHUNK == 0, "a chunk of tokens lies in one block");

// A thread has CHUNK tokens by CHUNK elements of one head, keys and values; it turns the keys over in registers.
__global__ void store_kernel(CacheLayout cache, const floatX *qkv, int row, int T) {
    const int t = (blockIdx.x * blockDim.y + threadIdx.y) * CHUNK;
    if (t >= T) return;
    const QkvLayout layout(cache.shape);
    const int HD = layout.HD, NKV = layout.NKV, chunks = HD / CHUNK, count = min(T - t, (int)CHUNK);
    const int stride = layout.qkv_stride();
    for (int i = threadIdx.x; i < NKV * chunks; i += blockDim.x) {
        const int kv = i / chunks, at = i % chunks * CHUNK;
        const floatX *key = qkv + layout.key(0, kv, t) + at;
        floatX *value_to = cache.value(row, kv, t) + at;
        floatX *key_to = cache.key(row, kv, t) + (size_t)at * KV_CACHE_BLOCK;
        Pack<floatX, CHUNK> turned[CHUNK];
#pragma unroll
        for (int k = 0; k < CHUNK; k++) {
            if (k >= count) continue;
            const floatX *from = key + (size_t)k * stride;
            const Pack<floatX, CHUNK> read = access_as<Pack<floatX, CHUNK>>(from);
            for (int e = 0; e < CHUNK; e++) turned[e].v[k] = read.v[e];
            access_as<Pack<floatX, CHUNK>>(value_to + (size_t)k * HD) =
                access_as<Pack<floatX, CHUNK>>(from + (size_t)NKV * HD);
        }
#pragma unroll
        for (int e = 0; e < CHUNK; e++) {
            floatX *to = key_to + (size_t)e * KV_CACHE_BLOCK;
            if (count == CHUNK)
                access_as<Pack<floatX, CHUNK>>(to) = turned[e];
            else
                for (int k = 0; k < count; k++) to[k] = turned[e].v[k];
        }
    }
}

// A thread takes pairs of chunks: of a query, which it rotates, of a key, which it rotates and stores, or of a value.
__global__ void append_kernel(floatX *qkv, CacheLayout cache, const float *table, NewTokens tokens) {
    const int i = blockIdx.x * blockDim.y + threadIdx.y;
    if (i >= tokens.n) return;
    const int NH = cache.shape.NH, NKV = cache.shape.NKV, HD = cache.shape.HD, half = HD / 2, chunks = half / CHUNK;
    const int row = tokens.rows[i], position = tokens.positions[i];
    for (int w = threadIdx.x; w < (NH + 2 * NKV) * chunks; w += blockDim.x) {
        const int head = w / chunks, at = w % chunks * CHUNK, kv = head - NH;
        floatX *first = qkv + QkvLayout(cache.shape).query(0, head, i) + at;
        float a[CHUNK], b[CHUNK];
        load_vec(a, first);
        load_vec(b, first + half);
        if (kv >= NKV) {
            floatX *to = cache.value(row, kv - NKV, position) + at;
            store_vec(to, a);
            store_vec(to + half, b);
            continue;
        }
        rotate_chunk(a, b, table + (size_t)position * HD + 2 * at, 1.0f);
        if (kv < 0) {
            store_vec(first, a);
            store_vec(first + half, b);
            continue;
        }
        floatX *to = cache.key(row, kv, position) + (size_t)at * KV_CACHE_BLOCK;
        for (int k = 0; k < CHUNK; k++) {
            from_float(to[k * KV_CACHE_BLOCK], a[k]);
            from_float(to[(k + half) * KV_CACHE_BLOCK], b[k]);
        }
    }
}

extern "C" void kv_cache_store(KvCache cache, const floatX *qkv, int row, int T, cudaStream_t stream) {
    assert(T <= cache.shape.T && cache.shape.T % KV_CACHE_BLOCK == 0 && cache.shape.HD % 16 == 0 &&
           are_aligned(16, qkv, cache.keys, cache.values));
    dim3 block = rows_block(cache.shape.NKV * (cache.shape.HD / CHUNK));
    launch_pointwise(store_kernel, rows_grid(ceil_div(T, (int)CHUNK), block), block, stream, CacheLayout(cache), qkv,
                     row, T);
}

extern "C" void kv_cache_append(floatX *qkv, KvCache cache, const float *table, NewTokens tokens, cudaStream_t stream) {
    assert(cache.shape.T % KV_CACHE_BLOCK == 0 && cache.shape.HD % 16 == 0 &&
           are_aligned(16, qkv, cache.keys, cache.values, table));
    dim3 block = rows_block((cache.shape.NH + 2 * cache.shape.NKV) * (cache.shape.HD / 2 / CHUNK));
    launch_pointwise(append_kernel, rows_grid(tokens.n, block), block, stream, qkv, CacheLayout(cache), table, tokens);
}
