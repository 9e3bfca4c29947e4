// One-token attention. A block has one split (SPLIT keys) of one key/value head for one token, and computes for up to G of
// the query heads that share them
//   s_j = q k_j log2(e)/sqrt(HD),   m = max s_j,   p_j = 2^(s_j - m),   l = sum p_j,   o = sum p_j v_j
// The second pass gives out = sum over splits of 2^(m_i - m) o_i / sum of 2^(m_i - m) l_i, m the largest m_i.
//
// Inside a block the work is cut for SLOTS threads, in four phases with a barrier between:
//   scores    a slot has 8 neighbouring keys and a quarter of HD: no exchange, 16-byte loads of 8 keys' one element
//   softmax   a warp has a head: adds the quarters; maximum and sum over the split
//   values    a slot has 8 elements of HD and every `subsets`-th key of each page
//   sum       of the slots' outputs
// On the CPU one thread takes all slots in turn (see wide_warps), several of them at once as long vectors: the same sums in
// the same order, and nobody to wait for.
#include "kernels/attention_decode.h"

#include <assert.h>

#include "device/math.h"
#include "device/reduce.h"
#include "kernels/qkv_layout.h"
#include "kernels/rows.h"

namespace {

constexpr int SPLIT = 256, SLOTS = 128, PARTS = 4, LANE_KEYS = SPLIT / 32, MAX_HD = 256;
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

// What a thread takes at once of keys to score and of elements of the output; all slots' together are the same.
template <int G, int THREADS> constexpr int KEYS = THREADS > 1 ? LANE_KEYS : G <= 4 ? 64 : 32;
template <int THREADS> constexpr int WIDTH = THREADS > 1 ? (int)CHUNK : 16;

template <int THREADS> __device__ __forceinline__ void sync() {
    if constexpr (THREADS > 1) __syncthreads();
}

// Shared memory of a block: for each head of a pass its query, the buffer, and the probabilities.
template <int G> struct Shared {
    float *query, *buffer, *probability;

    __device__ explicit Shared(float *base)
        : query(base + G * (BUFFER + SPLIT)), buffer(base), probability(base + G * BUFFER) {}
    static constexpr size_t floats(int HD) { return (size_t)G * (BUFFER + SPLIT + HD); }
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

// Keys and values of one split: those of `count` tokens of a row's key/value head, from token `first` on.
struct Split {
    const CacheLayout &cache;
    int row, kv, first, count;

    __device__ const floatX *key(int i) const { return cache.key(row, kv, first + i); }
    __device__ const floatX *value(int i) const { return cache.value(row, kv, first + i); }
};

// buffer[part][g][key] = the product over a quarter of HD.
template <int G, int THREADS> __device__ __forceinline__ void score(Shared<G> shared, Split split, int HD) {
    constexpr int N = KEYS<G, THREADS>, NEIGHBOURS = SPLIT / N;
    const int depth = HD / PARTS;
    for (int slot = threadIdx.x; slot < PARTS * NEIGHBOURS; slot += THREADS) {
        const int part = slot / NEIGHBOURS, key = slot % NEIGHBOURS * N;
        if (key >= split.count) continue;
        const floatX *from = split.key(key) + (size_t)part * depth * KV_CACHE_BLOCK;
        const float *query = shared.query + part * depth;
        float sum[G][N] = {};
#pragma unroll 4
        for (int d = 0; d < depth; d++) {
            float k[N];
            load_vec(k, from + d * KV_CACHE_BLOCK);
#pragma unroll
            for (int g = 0; g < G; g++) {
                const float q = query[g * HD + d];
                EACH_ELEMENT
                for (int e = 0; e < N; e++) sum[g][e] = multiply_add(q, k[e], sum[g][e]);
            }
        }
#pragma unroll
        for (int g = 0; g < G; g++) store_vec(shared.buffer + (part * G + g) * SPLIT + key, sum[g]);
    }
}

// The sum of the lanes' sums, of which a thread that is alone has all.
template <int LANES> __device__ __forceinline__ float sum_of_lanes(float (&x)[LANES]) {
    if constexpr (LANES == 1)
        return warp_sum(x[0]);
    else
        return sum_vec(x); // in the order of warp_sum
}

// probability[g] = p, and m and l of head g by its warp's first lane. Keys from `count` on get p = 0.
template <int G, int THREADS>
__device__ __forceinline__ void softmax(Shared<G> shared, float *stats, size_t stats_stride, int count, int heads,
                                        float scale) {
    constexpr int LANES = THREADS > 1 ? 1 : 32, N = LANES * LANE_KEYS; // that a thread is, its keys
    const int lane = THREADS > 1 ? lane_id() : 0, key = lane * LANE_KEYS;
    for (int g = threadIdx.x / 32; g < G; g += ceil_div(THREADS, 32)) {
        float s[N], sums[LANES];
        load_vec(s, shared.buffer + g * SPLIT + key);
#pragma unroll
        for (int part = 1; part < PARTS; part++) {
            float more[N];
            load_vec(more, shared.buffer + (part * G + g) * SPLIT + key);
            EACH_ELEMENT
            for (int e = 0; e < N; e++) s[e] += more[e];
        }
        EACH_ELEMENT
        for (int e = 0; e < N; e++) s[e] = key + e < count ? s[e] * scale : -INFINITY;
        const float largest = max_vec(s);
        const float m = THREADS > 1 ? warp_max(largest) : largest;
        EACH_ELEMENT
        for (int e = 0; e < N; e++) s[e] = fast_exp2(s[e] - m);
        store_vec(shared.probability + g * SPLIT + key, s);
#pragma unroll
        for (int i = 0; i < LANES; i++) sums[i] = sum_vec(*(float(*)[LANE_KEYS])(s + i * LANE_KEYS));
        const float l = sum_of_lanes(sums);
        if (lane == 0 && g < heads) {
            stats[g * stats_stride] = m;
            stats[g * stats_stride + 1] = l;
        }
    }
}

// buffer[subset][g] = the output of the keys subset, subset + subsets, ... of each page.
template <int G, int THREADS>
__device__ __forceinline__ void weigh_values(Shared<G> shared, Split split, int HD, int subsets) {
    constexpr int N = WIDTH<THREADS>;
    const int chunks = HD / N;
    const floatX *pages[SPLIT / KV_CACHE_BLOCK]; // who has all slots looks them up once
    if constexpr (THREADS == 1)
        for (int page = 0; page < split.count; page += KV_CACHE_BLOCK) pages[page / KV_CACHE_BLOCK] = split.value(page);
    for (int slot = threadIdx.x; slot < subsets * chunks; slot += THREADS) {
        const int subset = slot / chunks, at = slot % chunks * N;
        float sum[G][N] = {};
        for (int page = 0; page < split.count; page += KV_CACHE_BLOCK) {
            const floatX *values = (THREADS == 1 ? pages[page / KV_CACHE_BLOCK] : split.value(page)) + at;
            const float *probability = shared.probability + page;
            const int count = min(split.count - page, (int)KV_CACHE_BLOCK);
#pragma unroll 4
            for (int key = subset; key < count; key += subsets) {
                float v[N];
                load_vec(v, values + (size_t)key * HD);
#pragma unroll
                for (int g = 0; g < G; g++) {
                    const float p = probability[g * SPLIT + key];
                    EACH_ELEMENT
                    for (int e = 0; e < N; e++) sum[g][e] = multiply_add(p, v[e], sum[g][e]);
                }
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
    constexpr int N = WIDTH<THREADS>;
    const int chunks = HD / N;
    for (int i = threadIdx.x; i < min(heads, G) * chunks; i += THREADS) {
        const int g = i / chunks, at = i % chunks * N;
        float sum[N] = {};
        for (int subset = 0; subset < subsets; subset++) {
            float more[N];
            load_vec(more, shared.buffer + (subset * G + g) * HD + at);
            EACH_ELEMENT
            for (int e = 0; e < N; e++) sum[e] += more[e];
        }
        store_vec(to + g * stride + at, sum);
    }
}

// Grid: splits, NKV, n. More than G query heads of one key/value head take several passes; the split's keys and values
// then come from the cache near the multiprocessor.
template <int G, int THREADS>
__device__ __forceinline__ void attend_split(float *memory, Partial partial, const floatX *qkv, CacheLayout cache,
                                             NewTokens tokens, float scale) {
    const Shared<G> shared(memory);
    const int kv = blockIdx.y, i = blockIdx.z, first = blockIdx.x * SPLIT;
    const Split split = {cache, tokens.rows[i], kv, first, min(tokens.positions[i] + 1 - first, SPLIT)};
    if (split.count <= 0) return; // the whole block
    const QkvLayout layout(cache.shape);
    const int HD = layout.HD, heads = layout.NH / layout.NKV, subsets = SLOTS / (HD / CHUNK);
    const floatX *queries = qkv + layout.query(0, kv * heads, i);
    if constexpr (THREADS == 1)
        for (int page = 0; page < split.count; page += KV_CACHE_BLOCK) {
            prefetch(split.key(page), (size_t)KV_CACHE_BLOCK * HD);
            prefetch(split.value(page), (size_t)min(split.count - page, (int)KV_CACHE_BLOCK) * HD);
        }
    for (int head = 0; head < heads; head += G) {
        const size_t at = partial.index(i, kv * heads + head, layout.NH, blockIdx.x);
        load_queries<G, THREADS>(shared, queries, head, heads, HD);
        sync<THREADS>();
        score<G, THREADS>(shared, split, HD);
        sync<THREADS>();
        softmax<G, THREADS>(shared, partial.stats + at * 2, (size_t)partial.splits * 2, split.count, heads - head,
                            scale);
        sync<THREADS>();
        weigh_values<G, THREADS>(shared, split, HD, subsets);
        sync<THREADS>();
        sum_subsets<G, THREADS>(partial.outputs + at * HD, (size_t)partial.splits * HD, shared, heads - head, HD,
                                subsets);
    }
}

// Blocks that a multiprocessor is to have at once: with as many registers as that leaves nvcc spills none.
template <int G> constexpr int RESIDENT = G == 8 ? 3 : G == 3 ? 6 : 5;

template <int G, int THREADS>
__global__ void __launch_bounds__(THREADS, RESIDENT<G>)
    split_kernel(Partial partial, const floatX *qkv, CacheLayout cache, NewTokens tokens, float scale) {
    if constexpr (THREADS > 1) {
        SHARED_DYNAMIC(float, memory);
        attend_split<G, THREADS>(memory, partial, qkv, cache, tokens, scale);
    } else {
        alignas(64) float memory[Shared<G>::floats(MAX_HD)];
        attend_split<G, THREADS>(memory, partial, qkv, cache, tokens, scale);
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
            float of_split[2], o[CHUNK];
            load_vec(of_split, stats + 2 * split);
            load_vec(o, outputs + (size_t)split * HD + at);
            const float weight = fast_exp2(of_split[0] - m);
            l += weight * of_split[1];
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
    const float scale = QkvLayout(cache.shape).log2_scale();
    if (launch_alone((split_kernel<G, 1>), grid, stream, partial, qkv, cache, tokens, scale)) return;
    launch((split_kernel<G, SLOTS>), grid, dim3(SLOTS), sizeof(float) * Shared<G>::floats(cache.shape.HD), stream,
           partial, qkv, cache, tokens, scale);
}

} // namespace

extern "C" size_t attention_decode_scratch(int n, int length, AttentionShape shape) {
    return (size_t)n * shape.NH * ceil_div(length, SPLIT) * (shape.HD + 2);
}

extern "C" void attention_decode(floatX *out, float *scratch, const floatX *qkv, KvCache cache, NewTokens tokens,
                                 int length, cudaStream_t stream) {
    const int n = tokens.n, NH = cache.shape.NH, NKV = cache.shape.NKV, HD = cache.shape.HD;
    assert(HD % 16 == 0 && HD <= MAX_HD && NH % NKV == 0 && length <= cache.shape.T &&
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
