// Filling the cache of keys and values: a whole prompt, or one token a row with its rotation,
//   (a, b) = (x[i], x[i + HD/2])  becomes  (a cos - b sin, b cos + a sin)  of its position.
#include "kernels/kv_cache.h"
#include "kernels/kv_cache_layout.h"
#include "kernels/rows.h"
#include <assert.h>

static_assert(KV_CACHE_BLOCK % CHUNK == 0, "a chunk of tokens lies in one block");

// A thread has CHUNK tokens by CHUNK elements of one head, keys and values; it turns the keys over in registers.
__global__ void store_kernel(floatX *keys, floatX *values, const floatX *qkv, int row, int T, CacheSizes sizes) {
    const int t = (blockIdx.x * blockDim.y + threadIdx.y) * CHUNK;
    if (t >= T) return;
    const int chunks = sizes.HD / CHUNK, count = min(T - t, (int)CHUNK), stride = sizes.qkv_stride();
    for (int i = threadIdx.x; i < sizes.NKV * chunks; i += blockDim.x) {
        const int kv = i / chunks, at = i % chunks * CHUNK;
        const floatX *key = qkv + (size_t)t * stride + (sizes.NH + kv) * sizes.HD + at;
        floatX *value_to = values + sizes.value(row, kv, t) + at;
        floatX *key_to = keys + sizes.key(row, kv, t) + (size_t)at * KV_CACHE_BLOCK;
        Pack<floatX, CHUNK> turned[CHUNK];
#pragma unroll
        for (int k = 0; k < CHUNK; k++) {
            if (k >= count) continue;
            const floatX *from = key + (size_t)k * stride;
            const Pack<floatX, CHUNK> read = *(const Pack<floatX, CHUNK> *)from;
            for (int e = 0; e < CHUNK; e++) turned[e].v[k] = read.v[e];
            *(Pack<floatX, CHUNK> *)(value_to + (size_t)k * sizes.HD) =
                *(const Pack<floatX, CHUNK> *)(from + (size_t)sizes.NKV * sizes.HD);
        }
#pragma unroll
        for (int e = 0; e < CHUNK; e++) {
            floatX *to = key_to + (size_t)e * KV_CACHE_BLOCK;
            if (count == CHUNK)
                *(Pack<floatX, CHUNK> *)to = turned[e];
            else
                for (int k = 0; k < count; k++) to[k] = turned[e].v[k];
        }
    }
}

// One chunk of a head's first half and its partner of the second, rotated.
__device__ __forceinline__ void rotate_chunk(float (&a)[CHUNK], float (&b)[CHUNK], const float *rotations) {
    float rotation[2 * CHUNK];
    load_vec(rotation, rotations);
    EACH_ELEMENT
    for (int k = 0; k < CHUNK; k++) {
        float cosine = rotation[2 * k], sine = rotation[2 * k + 1];
        float a_new = a[k] * cosine - b[k] * sine;
        b[k] = b[k] * cosine + a[k] * sine;
        a[k] = a_new;
    }
}

// A thread takes pairs of chunks: of a query, which it rotates, of a key, which it rotates and stores, or of a value.
__global__ void append_kernel(floatX *qkv, floatX *keys, floatX *values, const float *table, const int *rows,
                              const int *positions, int n, CacheSizes sizes) {
    const int i = blockIdx.x * blockDim.y + threadIdx.y;
    if (i >= n) return;
    const int HD = sizes.HD, half = HD / 2, chunks = half / CHUNK, position = positions[i];
    for (int w = threadIdx.x; w < (sizes.NH + 2 * sizes.NKV) * chunks; w += blockDim.x) {
        const int head = w / chunks, at = w % chunks * CHUNK, kv = head - sizes.NH;
        floatX *first = qkv + (size_t)i * sizes.qkv_stride() + head * HD + at;
        float a[CHUNK], b[CHUNK];
        load_vec(a, first);
        load_vec(b, first + half);
        if (kv >= sizes.NKV) {
            floatX *to = values + sizes.value(rows[i], kv - sizes.NKV, position) + at;
            store_vec(to, a);
            store_vec(to + half, b);
            continue;
        }
        rotate_chunk(a, b, table + (size_t)position * HD + 2 * at);
        if (kv < 0) {
            store_vec(first, a);
            store_vec(first + half, b);
            continue;
        }
        floatX *to = keys + sizes.key(rows[i], kv, position) + (size_t)at * KV_CACHE_BLOCK;
        for (int k = 0; k < CHUNK; k++) {
            from_float(to[k * KV_CACHE_BLOCK], a[k]);
            from_float(to[(k + half) * KV_CACHE_BLOCK], b[k]);
        }
    }
}

extern "C" void kv_cache_store(floatX *keys, floatX *values, const floatX *qkv, int row, int T, int capacity, int NH,
                               int NKV, int HD, cudaStream_t stream) {
    assert(T <= capacity && capacity % KV_CACHE_BLOCK == 0 && HD % 16 == 0);
    dim3 block = rows_block(NKV * (HD / CHUNK));
    launch_pointwise(store_kernel, rows_grid(ceil_div(T, (int)CHUNK), block), block, stream, keys, values, qkv, row, T,
                     CacheSizes{capacity, NH, NKV, HD});
}

extern "C" void kv_cache_append(floatX *qkv, floatX *keys, floatX *values, const float *table, const int *rows,
                                const int *positions, int n, int capacity, int NH, int NKV, int HD,
                                cudaStream_t stream) {
    assert(capacity % KV_CACHE_BLOCK == 0 && HD % 16 == 0);
    dim3 block = rows_block((NH + 2 * NKV) * (HD / 2 / CHUNK));
    launch_pointwise(append_kernel, rows_grid(n, block), block, stream, qkv, keys, values, table, rows, positions, n,
                     CacheSizes{capacity, NH, NKV, HD});
}
