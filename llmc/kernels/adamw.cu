// AdamW, as torch.optim.AdamW after torch.nn.utils.clip_grad_norm_:
//   g = grad * min(1, max_grad_norm / (grad_norm + 1e-6))
//   master *= 1 - learning_rate * weight_decay
//   m += (1 - beta1) (g - m),  v = beta2 v + (1 - beta2) g^2
//   master -= learning_rate * (m / bias_correction1) / (sqrt(v / bias_correction2) + eps)
#include "kernels/adamw.h"

#include "device/launch.h"
#include "device/math.h"
#include "device/vec.h"

enum { ADAMW_BLOCK = 256, WIDTH = 4 };

struct Factors { // of one step, the same for all weights
    float clip, keep, mean_rate, square_keep, square_rate, rate, root_scale, eps;
};

__device__ __forceinline__ Factors step_factors(const AdamWStep &step, float grad_norm, bool decay) {
    Factors f;
    f.clip = step.max_grad_norm > 0.0f ? fminf(1.0f, fast_divide(step.max_grad_norm, grad_norm + 1e-6f)) : 1.0f;
    f.keep = decay ? 1.0f - step.learning_rate * step.weight_decay : 1.0f;
    f.mean_rate = (float)(1.0 - step.beta1);
    f.square_keep = (float)step.beta2;
    f.square_rate = (float)(1.0 - step.beta2);
    f.rate = fast_divide(step.learning_rate, step.bias_correction1);
    f.root_scale = fast_rsqrt(step.bias_correction2);
    f.eps = step.eps;
    return f;
}

__device__ __forceinline__ void update(float &master, float &m, float &v, float grad, const Factors &f) {
    float g = grad * f.clip;
    m += f.mean_rate * (g - m);
    v = f.square_keep * v + f.square_rate * g * g;
    master = master * f.keep - fast_divide(f.rate * m, fast_sqrt(v) * f.root_scale + f.eps);
}

__device__ __forceinline__ void update_vec(floatX *params, float *master, float *m, float *v, const float *grads,
                                           const Factors &f) {
    float w[WIDTH], mean[WIDTH], square[WIDTH], g[WIDTH];
    load_vec(w, master);
    load_vec(mean, m);
    load_vec(square, v);
    load_vec(g, grads);
    EACH_ELEMENT
    for (int k = 0; k < WIDTH; k++) update(w[k], mean[k], square[k], g[k], f);
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
    Factors f = step_factors(*step, *grad_norm, decay);
    if (i + WIDTH <= n) return update_vec(params + i, master + i, m + i, v + i, grads + i, f);
    for (; i < n; i++) { // the last n % WIDTH
        update(master[i], m[i], v[i], grads[i], f);
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
