// Whether a step's update of the weights is made, decided on the device, so that no step waits for the host.
#ifndef LLMC_KERNELS_UPDATE_GATE_H
#define LLMC_KERNELS_UPDATE_GATE_H

#include <cuda_runtime.h>

#ifdef __cplusplus
extern "C" {
#endif

// apply [1] = 1 if the step's mean loss, *loss_sum * *loss_scale, and *grad_norm are finite and the loss is at most
// *max_loss (infinity: no limit), else 0. All in device memory.
void update_gate(int *apply, const float *loss_sum, const float *loss_scale, const float *max_loss,
                 const float *grad_norm, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
