// The gate before the update: one thread looks at the step's loss and gradient norm.
#include "kernels/update_gate.h"

#include "device/launch.h"
#include "device/math.h"

// Written so that NaN fails each comparison.
__global__ void update_gate_kernel(int *apply, const float *loss_sum, const float *loss_scale, const float *max_loss,
                                   const float *grad_norm) {
    const float loss = *loss_sum * *loss_scale;
    *apply = loss > -INFINITY && loss < INFINITY && loss <= *max_loss && *grad_norm < INFINITY;
}

extern "C" void update_gate(int *apply, const float *loss_sum, const float *loss_scale, const float *max_loss,
                            const float *grad_norm, cudaStream_t stream) {
    launch_pointwise(update_gate_kernel, dim3(1), dim3(1), stream, apply, loss_sum, loss_scale, max_loss, grad_norm);
}
