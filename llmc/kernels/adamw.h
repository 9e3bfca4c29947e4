// AdamW (Loshchilov and Hutter 2019) on fp32 master weights, with clipping of the global gradient norm.
#ifndef LLMC_KERNELS_ADAMW_H
#define LLMC_KERNELS_ADAMW_H

#include <cuda_runtime.h>
#include <stdbool.h>
#include <stddef.h>

#include "device/types.h"
#include "kernels/adamw_step.h"

#ifdef __cplusplus
extern "C" {
#endif

// One step of torch.optim.AdamW (decay decoupled) after clip_grad_norm_, on n weights, a multiple of 4:
// master, m, v [n] are updated, params [n] = master rounded to floatX. decay: whether weight_decay applies to these.
// grads [n] fp32; apply [1], grad_norm [1] and step [1] in device memory. Nothing changes if *apply is 0.
// fp32 pointers are 16-byte aligned, params to four elements.
void adamw_update(floatX *params, float *master, float *m, float *v, const float *grads, const int *apply,
                  const float *grad_norm, const AdamWStep *step, bool decay, size_t n, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
