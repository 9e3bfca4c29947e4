// Initial values of parameters. The normal numbers are a pure function of a counter: Philox gives 4 words for each counter,
// Box-Muller makes 4 normals of them.
#include "kernels/weights.h"

#include "device/launch.h"
#include "device/math.h"
#include "device/philox.h"
#include "device/vec.h"
#include "device/wide_warps.h"

enum { THREADS = 256, NORMALS = PHILOX_WORDS };
// Counters of a thread, and the elements that it makes of them: on the CPU a vector of counters.
enum { COUNTERS = HAS_WIDE_WARPS ? 16 : 1, DRAWN = COUNTERS * NORMALS };

typedef PhiloxWords<COUNTERS> Words;

// Two independent normals from two words. The logarithm is never that of 0; next to 1 a GPU's may be above 0, by next to nothing.
static __device__ __forceinline__ void box_muller(float &a, float &b, uint32_t u, uint32_t v) {
    float log_uniform = fast_log(((float)(u >> 8) + 1.0f) * (1.0f / 16777216.0f));
    float radius = fast_sqrt(2.0f * fabsf(log_uniform));
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

// values[DRAWN] are the elements from `first` on, those below n.
static __device__ __forceinline__ void put_drawn(floatX *params, const Master &master, size_t first, size_t n,
                                                 const float (&values)[DRAWN]) {
    const size_t at = first - master.first; // in the master weights
    if (first + DRAWN > n || at >= master.count || at + DRAWN > master.count) {
        for (int k = 0; k < DRAWN && first + k < n; k++) put(params, master, first + k, values[k]);
        return;
    }
    EACH_ELEMENT
    for (int k = 0; k < DRAWN; k++) from_float(params[first + k], values[k]);
    EACH_ELEMENT
    for (int k = 0; k < DRAWN; k++) master.at[at + k] = values[k];
}

static __global__ void init_normal_kernel(floatX *params, Master master, size_t n, float std, uint64_t seed,
                                          uint32_t stream_id) {
    const size_t counter = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * COUNTERS, first = counter * NORMALS;
    Words x;
    float values[DRAWN];
    if (first >= n) return;
    philox(x, counter, stream_id, 0, seed);
    EACH_ELEMENT
    for (int c = 0; c < COUNTERS; c++) {
        float a0, b0, a1, b1;
        box_muller(a0, b0, x[0][c], x[1][c]);
        box_muller(a1, b1, x[2][c], x[3][c]);
        values[NORMALS * c] = std * a0;
        values[NORMALS * c + 1] = std * b0;
        values[NORMALS * c + 2] = std * a1;
        values[NORMALS * c + 3] = std * b1;
    }
    put_drawn(params, master, first, n, values);
}

// The middle of one of 2^23 equal parts of (-1, 1): as many as have a middle in fp32.
static __device__ __forceinline__ float uniform(uint32_t word) {
    return ((float)(word >> 9) + 0.5f) * (1.0f / 4194304.0f) - 1.0f;
}

static __global__ void init_uniform_kernel(floatX *params, Master master, size_t n, float bound, uint64_t seed,
                                           uint32_t stream_id) {
    const size_t counter = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * COUNTERS, first = counter * NORMALS;
    Words x;
    float values[DRAWN];
    if (first >= n) return;
    philox(x, counter, stream_id, 0, seed);
    for (int k = 0; k < DRAWN; k++) values[k] = bound * uniform(x[k % NORMALS][k / NORMALS]);
    put_drawn(params, master, first, n, values);
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
    launch_pointwise(init_normal_kernel, blocks_for((n + DRAWN - 1) / DRAWN), THREADS, stream, params,
                     (Master{master, first, count}), n, std, seed, stream_id);
}

extern "C" void weights_init_uniform(floatX *params, float *master, size_t first, size_t count, size_t n, float bound,
                                     uint64_t seed, uint32_t stream_id, cudaStream_t stream) {
    launch_pointwise(init_uniform_kernel, blocks_for((n + DRAWN - 1) / DRAWN), THREADS, stream, params,
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
