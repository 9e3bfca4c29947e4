// AdamW, as torch.optim.AdamW after torch.nn.utils.clip_grad_norm_:
//   g = grad * min(1, max_grad_norm / (grad_norm + 1e-6))
//   master *= 1 - learning_rate * weight_decay
//   m += (1 - beta1) (g - m),  v = beta2 v + (1 - beta2) g^2
//   master -= learning_rate * (m / bias_correction1) / (sqrt(v / bias_correction2) + eps)
#ifndef LLMC_KERNELS_ADAMW_ELEMENT_H
#define LLMC_KERNELS_ADAMW_ELEMENT_H

#include "device/math.h"
#include "kernels/adamw_step.h"

struct AdamWFactors { // of one step, the same for all weights
    float clip, keep, mean_rate, square_keep, square_rate, rate, root_scale, eps;
};

__device__ __forceinline__ AdamWFactors adamw_factors(const AdamWStep &step, float grad_norm, bool decay) {
    AdamWFactors f;
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

__device__ __forceinline__ void adamw_element(float &master, float &m, float &v, float grad, const AdamWFactors &f) {
    float g = grad * f.clip;
    m += f.mean_rate * (g - m);
    v = f.square_keep * v + f.square_rate * g * g;
    master = master * f.keep - fast_divide(f.rate * m, fast_sqrt(v) * f.root_scale + f.eps);
}

#endif
