// AdamW on less memory: moments in bf16, and no master weights. What is kept in bf16 is rounded stochastically: up or down, at
// random, so that the mean of the result is the exact value, and a change far smaller than a bf16's last bit still counts in
// the long run.
#ifndef LLMC_KERNELS_ADAMW_ROUNDED_H
#define LLMC_KERNELS_ADAMW_ROUNDED_H

#include <stddef.h>

#include "kernels/adamw.h"

#ifdef __cplusplus
extern "C" {
#endif

// The step of adamw_update, computed in fp32, on less: m and v [n] are bf16 (bf16_moments; else fp32), or master is NULL and
// params are the weights. m and v =, rounded stochastically where they are bf16. master [n] = and params [n] = master rounded
// to nearest; without master params [n] = the weights, rounded stochastically (not in an fp32 build). The rounding of element i is a pure function of step->rounding_seed, step->rounding_step, sequence and first + i:
// any division of the work gives the same bits. first is a multiple of 8; pointers are 16-byte aligned.
void adamw_rounded_update(floatX *params, float *master, void *m, void *v, bool bf16_moments, const float *grads,
                          const int *apply, const float *grad_norm, const AdamWStep *step, bool decay, size_t first,
                          uint32_t sequence, size_t n, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
