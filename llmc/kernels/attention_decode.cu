// One-token attention. A block has one split (SPLIT keys) of one key/value head of one row, and computes for up to G of
// the query heads that share them
//   s_j = q k_j log2(e)/sqrt(HD),   m = max s_j,   p_j = 2^(s_j - m),   l = sum p_j,   o = sum p_j v_j
// The second pass gives out = sum over splits of 2^(m_i - m) o_i / sum of 2^(m_i - m) l_i, m the largest m_i.
//
// Inside a block the work is cut for SLOTS threads, in four phases with a barrier between:
//   scores    a slot has 8 neighbouring keys and a quarter of HD: no exchange, 16-byte loads of 8 keys' one element
//   softmax   a warp has a head: adds the quarters; maximum and sum over the split
//   values    a slot has 8 elements of HD and every `subsets`-th key
//   sum       of the slots' outputs
// On the CPU one warp takes all slots in turn (see wide_warps): the same sums in the same order, fewer fibers to switch.
#include "kernels/attention_decode.h"

#include <assert.h>

#include "device/math.h"
#include "device/reduce.h"
#include "device/wide_warps.h"
#include "kernels/qkv_layout.h"
#include "kernels/rows.h"

namespace {

constexpr int SPLIT = 256, SLOTS = 128, PARTS = 4, LANE_KEYS = SPLIT / 32;
constexpr int BUFFER = SLOTS * CHUNK; // floats a head: SPLIT scores of each part, or an output of each subset of keys
static_assert(LANE_KEYS == (int)CHUNK && SLOTS == 32 * PARTS && SPLIT * PARTS == BUFFER, "a lane's keys are one chunk");
static_assert(SPLIT % (int)KV_CACHE_BLOCK == 0, "a split is made of whole blocks");

// The splits' results: [n, NH, splits, HD] outputs, then [n, NH, splits, 2] of m and l.
struct Partial {
    float *outputs, *stats;
    int splits;

    __device__ size_t index(int i, int head, int NH, int split) const {
        return ((size_t)i * NH + head) * splits + split;
    }
};

// Shared memory of a block: for each head of a pass its query, the buffer, and the probabilities.
template <int G> struct Shared {
    float *query, *buffer, *probability;

    __device__ explicit Shared(float *base)
        : query(base + G * (BUFFER + SPLIT)), buffer(base), probability(base + G * BUFFER) {}
    static size_t bytes(int HD) { return sizeof(float) * G * (BUFFER + SPLIT + HD); }
};

// query[g] = query head head0 + g in fp32; heads from `heads` on repeat the last one and are never stored.
template <int G, int THREADS>
__device__ __forceinline__ void load_queries(Shared<G> shared, const floatX *queries, int head0, int heads, int HD) {
    const int chunks = HD / CHUNK;
    for (int i = threadIdx.x; i < G * chunks; i += THREADS) {
        const int g = i / chunks, at = i % chunks * CHUNK;
        float q[CHUNK];
        load_vec(q, queries + min(head0 + g, heads - 1) * HD + at);
        store_vec(shared.query + g * HD + at, q);
    }
}

// buffer[part][g][key] = the product over a quarter of HD. keys: element 0 of the split's first key.
template <int G, int THREADS>
__device__ __forceinline__ void score(Shared<G> shared, const floatX *keys, int count, int HD) {
    const int depth = HD / PARTS;
    for (int slot = threadIdx.x; slot < SLOTS; slot += THREADS) {
        const int part = slot / 32, key = slot % 32 * LANE_KEYS;
        if (key >= count) continue;
        const floatX *from = keys + (size_t)(key / KV_CACHE_BLOCK) * HD * KV_CACHE_BLOCK + key % KV_CACHE_BLOCK +
                             (size_t)part * depth * KV_CACHE_BLOCK;
        const float *query = shared.query + part * depth;
        float sum[G][LANE_KEYS] = {};
#pragma unroll 4
        for (int d = 0; d < depth; d++) {
            float k[LANE_KEYS];
            load_vec(k, from + d * KV_CACHE_BLOCK);
#pragma unroll
            for (int g = 0; g < G; g++) {
                const float q = query[g * HD + d];
                EACH_ELEMENT
                for (int e = 0; e < LANE_KEYS; e++) sum[g][e] += q * k[e];
            }
        }
#pragma unroll
        for (int g = 0; g < G; g++) store_vec(shared.buffer + (part * G + g) * SPLIT + key, sum[g]);
    }
}

// probability[g] = p, and m and l of head g by its warp's first lane. Keys from `count` on get p = 0.
template <int G, int THREADS>
__device__ __forceinline__ void softmax(Shared<G> shared, float *stats, size_t stats_stride, int count, int heads,
                                        float scale) {
    const int lane = lane_id(), key = lane * LANE_KEYS;
    for (int g = threadIdx.x / 32; g < G; g += THREADS / 32) {
        float s[LANE_KEYS], largest = -INFINITY;
        load_vec(s, shared.buffer + g * SPLIT + key);
#pragma unroll
        for (int part = 1; part < PARTS; part++) {
            float more[LANE_KEYS];
            load_vec(more, shared.buffer + (part * G + g) * SPLIT + key);
            EACH_ELEMENT
            for (int e = 0; e < LANE_KEYS; e++) s[e] += more[e];
        }
#pragma unroll
        for (int e = 0; e < LANE_KEYS; e++) {
            s[e] = key + e < count ? s[e] * scale : -INFINITY;
            largest = max(largest, s[e]);
        }
        const float m = warp_max(largest);
        EACH_ELEMENT
        for (int e = 0; e < LANE_KEYS; e++) s[e] = fast_exp2(s[e] - m);
        store_vec(shared.probability + g * SPLIT + key, s);
        const float l = warp_sum(sum_vec(s));
        if (lane == 0 && g < heads) {
            stats[g * stats_stride] = m;
            stats[g * stats_stride + 1] = l;
        }
    }
}

// buffer[subset][g] = the output of the keys subset, subset + subsets, ... values: the split's first.
template <int G, int THREADS>
__device__ __forceinline__ void weigh_values(Shared<G> shared, const floatX *values, int count, int HD, int subsets) {
    const int chunks = HD / CHUNK;
    for (int slot = threadIdx.x; slot < subsets * chunks; slot += THREADS) {
        const int subset = slot / chunks, at = slot % chunks * CHUNK;
        float sum[G][CHUNK] = {};
#pragma unroll 4
        for (int key = subset; key < count; key += subsets) {
            float v[CHUNK];
            load_vec(v, values + (size_t)key * HD + at);
#pragma unroll
            for (int g = 0; g < G; g++) {
                const float p = shared.probability[g * SPLIT + key];
                EACH_ELEMENT
                for (int e = 0; e < CHUNK; e++) sum[g][e] += p * v[e];
            }
        }
#pragma unroll
        for (int g = 0; g < G; g++) store_vec(shared.buffer + (subset * G + g) * HD + at, sum[g]);
    }
}

// to: head 0's output; the next `stride` floats on.
template <int G, int THREADS>
__device__ __forceinline__ void sum_subsets(float *to, size_t stride, Shared<G> shared, int heads, int HD,
                                            int subsets) {
    const int chunks = HD / CHUNK;
    for (int i = threadIdx.x; i < min(heads, G) * chunks; i += THREADS) {
        const int g = i / chunks, at = i % chunks * CHUNK;
        float sum[CHUNK] = {};
        for (int subset = 0; subset < subsets; subset++) {
            float more[CHUNK];
            load_vec(more, shared.buffer + (subset * G + g) * HD + at);
            EACH_ELEMENT
            for (int e = 0; e < CHUNK; e++) sum[e] += more[e];
        }
        store_vec(to + g * stride + at, sum);
    }
}

// Grid: splits, NKV, n. More than G query heads of one key/value head take several passes; the split's keys and values
// then come from the cache near the multiprocessor.
template <int G, int THREADS>
__global__ void __launch_bounds__(THREADS)
    split_kernel(Partial partial, const floatX *qkv, CacheLayout cache, NewTokens tokens, float scale) {
    SHARED_DYNAMIC(float, memory);
    const Shared<G> shared(memory);
    const int split = blockIdx.x, kv = blockIdx.y, i = blockIdx.z, first = split * SPLIT;
    const int count = min(tokens.positions[i] + 1 - first, SPLIT); // keys of this split
    if (count <= 0) return;                                        // the whole block
    const QkvLayout layout(cache.shape);
    const int HD = layout.HD, heads = layout.NH / layout.NKV, subsets = SLOTS / (HD / CHUNK), row = tokens.rows[i];
    const floatX *queries = qkv + layout.query(0, kv * heads, i);
    for (int head = 0; head < heads; head += G) {
        const size_t at = partial.index(i, kv * heads + head, layout.NH, split);
        load_queries<G, THREADS>(shared, queries, head, heads, HD);
        __syncthreads();
        score<G, THREADS>(shared, cache.key(row, kv, first), count, HD);
        __syncthreads();
        softmax<G, THREADS>(shared, partial.stats + at * 2, (size_t)partial.splits * 2, count, heads - head, scale);
        __syncthreads();
        weigh_values<G, THREADS>(shared, cache.value(row, kv, first), count, HD, subsets);
        __syncthreads();
        sum_subsets<G, THREADS>(partial.outputs + at * HD, (size_t)partial.splits * HD, shared, heads - head, HD,
                                subsets);
    }
}

// A thread has a chunk of one head's output.
__global__ void combine_kernel(floatX *out, Partial partial, const int *positions, int n, int NH, int HD) {
    const int row = blockIdx.x * blockDim.y + threadIdx.y; // i * NH + head
    if (row >= n * NH) return;
    const int splits = positions[row / NH] / SPLIT + 1;
    const float *stats = partial.stats + (size_t)row * partial.splits * 2;
    const float *outputs = partial.outputs + (size_t)row * partial.splits * HD;
    for (int at = threadIdx.x * CHUNK; at < HD; at += blockDim.x * CHUNK) {
        float m = stats[0], l = 0.0f, sum[CHUNK] = {};
        for (int split = 1; split < splits; split++) m = max(m, stats[2 * split]);
        for (int split = 0; split < splits; split++) {
            const float weight = fast_exp2(stats[2 * split] - m);
            float o[CHUNK];
            load_vec(o, outputs + (size_t)split * HD + at);
            l += weight * stats[2 * split + 1];
            EACH_ELEMENT
            for (int e = 0; e < CHUNK; e++) sum[e] += weight * o[e];
        }
        const float factor = fast_divide(1.0f, l);
        EACH_ELEMENT
        for (int e = 0; e < CHUNK; e++) sum[e] *= factor;
        store_vec(out + (size_t)row * HD + at, sum);
    }
}

template <int G>
void split_for(Partial partial, const floatX *qkv, CacheLayout cache, NewTokens tokens, cudaStream_t stream) {
    const dim3 grid(partial.splits, cache.shape.NKV, tokens.n);
    const size_t bytes = Shared<G>::bytes(cache.shape.HD);
    const float scale = QkvLayout(cache.shape).log2_scale();
    if constexpr (HAS_WIDE_WARPS)
        if (wide_warps())
            return (void)launch((split_kernel<G, 32>), grid, dim3(32), bytes, stream, partial, qkv, cache, tokens,
                                scale);
    launch((split_kernel<G, SLOTS>), grid, dim3(SLOTS), bytes, stream, partial, qkv, cache, tokens, scale);
}

} // namespace

extern "C" size_t attention_decode_scratch(int n, int length, AttentionShape shape) {
    return (size_t)n * shape.NH * ceil_div(length, SPLIT) * (shape.HD + 2);
}

extern "C" void attention_decode(floatX *out, float *scratch, const floatX *qkv, KvCache cache, NewTokens tokens,
                                 int length, cudaStream_t stream) {
    const int n = tokens.n, NH = cache.shape.NH, NKV = cache.shape.NKV, HD = cache.shape.HD;
    assert(HD % 16 == 0 && HD <= 256 && NH % NKV == 0 && length <= cache.shape.T &&
           cache.shape.T % KV_CACHE_BLOCK == 0 && are_aligned(16, out, scratch, qkv, cache.keys, cache.values));
    const CacheLayout layout(cache);
    const int splits = ceil_div(length, SPLIT), heads = NH / NKV;
    const Partial partial = {scratch, scratch + (size_t)n * NH * splits * HD, splits};
#define SPLIT_FOR(G) split_for<G>(partial, qkv, layout, tokens, stream)
    if (heads == 1)
        SPLIT_FOR(1);
    else if (heads == 2)
        SPLIT_FOR(2);
    else if (heads == 3)
        SPLIT_FOR(3);
    else if (heads == 4)
        SPLIT_FOR(4);
    else
        SPLIT_FOR(8);
#undef SPLIT_FOR
    dim3 block = rows_block(HD / CHUNK);
    launch_pointwise(combine_kernel, rows_grid(n * NH, block), block, stream, out, partial, tokens.positions, n, NH,
                     HD);
}
