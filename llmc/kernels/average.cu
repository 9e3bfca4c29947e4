// A running mean: mean += (x - mean) / k.
#include "kernels/average.h"

#include "device/launch.h"
#include "device/math.h"
#include "device/vec.h"

enum { AVERAGE_BLOCK = 256, WIDTH = 4 };

__device__ __forceinline__ void add_sample(float &mean, float x, float samples) {
    mean = samples == 1.0f ? x : mean + precise_divide(x - mean, samples);
}

__global__ void __launch_bounds__(AVERAGE_BLOCK) average_kernel(float *mean, const float *x, float samples, size_t n) {
    size_t i = ((size_t)blockIdx.x * AVERAGE_BLOCK + threadIdx.x) * WIDTH;
    if (i >= n) return;
    if (i + WIDTH > n) { // the last n % WIDTH
        for (; i < n; i++) add_sample(mean[i], x[i], samples);
        return;
    }
    float a[WIDTH], b[WIDTH];
    load_vec(a, mean + i);
    load_vec(b, x + i);
    EACH_ELEMENT
    for (int k = 0; k < WIDTH; k++) add_sample(a[k], b[k], samples);
    store_vec(mean + i, a);
}

extern "C" void average_update(float *mean, const float *x, int64_t samples, size_t n, cudaStream_t stream) {
    assert(are_aligned(16, mean, x));
    if (n == 0) return;
    unsigned blocks = (unsigned)((n + AVERAGE_BLOCK * WIDTH - 1) / (AVERAGE_BLOCK * WIDTH));
    launch_pointwise(average_kernel, dim3(blocks), dim3(AVERAGE_BLOCK), stream, mean, x, (float)samples, n);
}
