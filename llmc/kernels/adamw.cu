// AdamW on fp32 state (kernels/adamw_element.h has the maths).
#include "kernels/adamw.h"

#include "device/launch.h"
#include "device/vec.h"
#include "kernels/adamw_element.h"

enum { ADAMW_BLOCK = 256, WIDTH = 4 };

__global__ void __launch_bounds__(ADAMW_BLOCK)
    adamw_kernel(floatX *params, float *master, float *m, float *v, const float *grads, const int *apply,
                 const float *grad_norm, const AdamWStep *step, bool decay, size_t n) {
    if (!*apply) return;
    size_t i = ((size_t)blockIdx.x * ADAMW_BLOCK + threadIdx.x) * WIDTH;
    if (i >= n) return;
    AdamWFactors f = adamw_factors(*step, *grad_norm, decay);
    float w[WIDTH], mean[WIDTH], square[WIDTH], g[WIDTH];
    load_vec(w, master + i);
    load_vec(mean, m + i);
    load_vec(square, v + i);
    load_vec(g, grads + i);
    EACH_ELEMENT
    for (int k = 0; k < WIDTH; k++) adamw_element(w[k], mean[k], square[k], g[k], f);
    store_vec(master + i, w);
    store_vec(m + i, mean);
    store_vec(v + i, square);
    store_vec(params + i, w);
}

extern "C" void adamw_update(floatX *params, float *master, float *m, float *v, const float *grads, const int *apply,
                             const float *grad_norm, const AdamWStep *step, bool decay, size_t n, cudaStream_t stream) {
    assert(n % WIDTH == 0 && are_aligned(16, master, m, v, grads) && are_aligned(sizeof(floatX) * WIDTH, params));
    if (n == 0) return;
    unsigned blocks = (unsigned)((n + ADAMW_BLOCK * WIDTH - 1) / (ADAMW_BLOCK * WIDTH));
    launch_pointwise(adamw_kernel, dim3(blocks), dim3(ADAMW_BLOCK), stream, params, master, m, v, grads, apply,
                     grad_norm, step, decay, n);
}
