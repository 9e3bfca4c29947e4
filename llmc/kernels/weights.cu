// Initial values of parameters. The normal numbers are a pure function of a counter: Philox4x32-10 (Salmon et al.,
// "Parallel random numbers: as easy as 1, 2, 3", 2011) gives 4 words for each counter, Box-Muller makes 4 normals of them.
#include "kernels/weights.h"

#include "device/launch.h"
#include "device/math.h"
#include "device/vec.h"

enum { THREADS = 256, PHILOX_ROUNDS = 10, NORMALS = 4 };

static __device__ __forceinline__ uint32_t multiply_high(uint32_t a, uint32_t b) {
    return (uint32_t)(((uint64_t)a * b) >> 32);
}

static __device__ void philox(uint32_t (&x)[4], uint64_t key) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        uint32_t h0 = multiply_high(0xD2511F53u, x[0]), l0 = 0xD2511F53u * x[0];
        uint32_t h1 = multiply_high(0xCD9E8D57u, x[2]), l1 = 0xCD9E8D57u * x[2];
        x[0] = h1 ^ x[1] ^ k0;
        x[1] = l1;
        x[2] = h0 ^ x[3] ^ k1;
        x[3] = l0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

// Two independent normals from two words. The logarithm is never that of 0; next to 1 a GPU's may be above 0.
static __device__ void box_muller(float &a, float &b, uint32_t u, uint32_t v) {
    float log_uniform = fast_log(((float)(u >> 8) + 1.0f) * (1.0f / 16777216.0f));
    float radius = fast_sqrt(-2.0f * fminf(log_uniform, 0.0f));
    float angle = 6.283185307179586f * ((float)(v >> 8) * (1.0f / 16777216.0f));
    a = radius * fast_cos(angle);
    b = radius * fast_sin(angle);
}

struct Master { // of elements [first, first + count)
    float *at;
    size_t first, count;
};

static __device__ __forceinline__ void put(floatX *params, const Master &master, size_t i, float value) {
    from_float(params[i], value);
    if (i - master.first < master.count) master.at[i - master.first] = value; // i < first wraps around
}

static __global__ void init_normal_kernel(floatX *params, Master master, size_t n, float std, uint64_t seed,
                                          uint32_t stream_id) {
    size_t counter = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    size_t first = counter * NORMALS;
    if (first >= n) return;
    uint32_t x[4] = {(uint32_t)counter, (uint32_t)(counter >> 32), stream_id, 0};
    philox(x, seed);
    float normal[NORMALS];
    box_muller(normal[0], normal[1], x[0], x[1]);
    box_muller(normal[2], normal[3], x[2], x[3]);
    for (int k = 0; k < NORMALS && first + k < n; k++) put(params, master, first + k, std * normal[k]);
}

// The middle of one of 2^23 equal parts of (-1, 1): as many as have a middle in fp32.
static __device__ __forceinline__ float uniform(uint32_t word) {
    return ((float)(word >> 9) + 0.5f) * (1.0f / 4194304.0f) - 1.0f;
}

static __global__ void init_uniform_kernel(floatX *params, Master master, size_t n, float bound, uint64_t seed,
                                           uint32_t stream_id) {
    size_t counter = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    size_t first = counter * NORMALS;
    if (first >= n) return;
    uint32_t x[4] = {(uint32_t)counter, (uint32_t)(counter >> 32), stream_id, 0};
    philox(x, seed);
    for (int k = 0; k < NORMALS && first + k < n; k++) put(params, master, first + k, bound * uniform(x[k]));
}

static __global__ void init_constant_kernel(floatX *params, Master master, size_t n, float value) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) put(params, master, i, value);
}

static __global__ void widen_kernel(float *master, const floatX *params, size_t n) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) master[i] = to_float(params[i]);
}

static __global__ void narrow_kernel(floatX *params, const float *master, size_t n) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) from_float(params[i], master[i]);
}

static dim3 blocks_for(size_t threads) { return dim3((unsigned)((threads + THREADS - 1) / THREADS)); }

extern "C" void weights_init_normal(floatX *params, float *master, size_t first, size_t count, size_t n, float std,
                                    uint64_t seed, uint32_t stream_id, cudaStream_t stream) {
    launch_pointwise(init_normal_kernel, blocks_for((n + NORMALS - 1) / NORMALS), THREADS, stream, params,
                     (Master{master, first, count}), n, std, seed, stream_id);
}

extern "C" void weights_init_uniform(floatX *params, float *master, size_t first, size_t count, size_t n, float bound,
                                     uint64_t seed, uint32_t stream_id, cudaStream_t stream) {
    launch_pointwise(init_uniform_kernel, blocks_for((n + NORMALS - 1) / NORMALS), THREADS, stream, params,
                     (Master{master, first, count}), n, bound, seed, stream_id);
}

extern "C" void weights_init_constant(floatX *params, float *master, size_t first, size_t count, size_t n, float value,
                                      cudaStream_t stream) {
    launch_pointwise(init_constant_kernel, blocks_for(n), THREADS, stream, params, (Master{master, first, count}), n,
                     value);
}

extern "C" void weights_widen(float *master, const floatX *params, size_t n, cudaStream_t stream) {
    launch_pointwise(widen_kernel, blocks_for(n), THREADS, stream, master, params, n);
}

extern "C" void weights_narrow(floatX *params, const float *master, size_t n, cudaStream_t stream) {
    launch_pointwise(narrow_kernel, blocks_for(n), THREADS, stream, params, master, n);
}
