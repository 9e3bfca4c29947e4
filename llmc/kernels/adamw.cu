// AdamW on fp32 state (kernels/adamw_element.h has the maths).
#include "kernels/adamw.h"

#include "device/launch.h"
#include "device/vec.h"
#include "kernels/adamw_element.h"

enum { ADAMW_BLOCK = 256, WIDTH = 4 };

__device__ __forceinline__ void update_vec(floatX *params, float *master, float *m, float *v, const float *grads,
                                           const AdamWFactors &f) {
    float w[WIDTH], mean[WIDTH], square[WIDTH], g[WIDTH];
    load_vec(w, master);
    load_vec(mean, m);
    load_vec(square, v);
    load_vec(g, grads);
    EACH_ELEMENT
    for (int k = 0; k < WIDTH; k++) adamw_element(w[k], mean[k], square[k], g[k], f);
    store_vec(master, w);
    store_vec(m, mean);
    store_vec(v, square);
    store_vec(params, w);
}

__global__ void __launch_bounds__(ADAMW_BLOCK)
    adamw_kernel(floatX *params, float *master, float *m, float *v, const float *grads, const int *apply,
                 const float *grad_norm, const AdamWStep *step, bool decay, size_t n) {
    if (!*apply) return;
    size_t i = ((size_t)blockIdx.x * ADAMW_BLOCK + threadIdx.x) * WIDTH;
    if (i >= n) return;
    AdamWFactors f = adamw_factors(*step, *grad_norm, decay);
    if (i + WIDTH <= n) return update_vec(params + i, master + i, m + i, v + i, grads + i, f);
    for (; i < n; i++) { // the last n % WIDTH
        adamw_element(master[i], m[i], v[i], grads[i], f);
        from_float(params[i], master[i]);
    }
}

extern "C" void adamw_update(floatX *params, float *master, float *m, float *v, const float *grads, const int *apply,
                             const float *grad_norm, const AdamWStep *step, bool decay, size_t n, cudaStream_t stream) {
    assert(are_aligned(16, master, m, v, grads) && are_aligned(sizeof(floatX) * WIDTH, params));
    if (n == 0) return;
    unsigned blocks = (unsigned)((n + ADAMW_BLOCK * WIDTH - 1) / (ADAMW_BLOCK * WIDTH));
    launch_pointwise(adamw_kernel, dim3(blocks), dim3(ADAMW_BLOCK), stream, params, master, m, v, grads, apply,
                     grad_norm, step, decay, n);
}
