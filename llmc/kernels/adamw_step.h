// Numbers of a step of AdamW.
#ifndef LLMC_KERNELS_ADAMW_STEP_H
#define LLMC_KERNELS_ADAMW_STEP_H

#include <stdint.h>

// What changes from step to step, in device memory, so that a captured graph of the step stays valid.
typedef struct {
    float learning_rate;
    double beta1, beta2; // double: 1 - 0.999f is off by 1.3e-5 of itself
    float eps, weight_decay;
    float bias_correction1, bias_correction2; // 1 - beta^t, t = 1 at the first step
    float max_grad_norm;                      // gradients are scaled to this norm if theirs is larger; 0: no clipping
    uint32_t rounding_step;                   // what stochastic rounding depends on beside the place of an element:
    uint64_t rounding_seed;                   // another number in each step, and the run's seed
} AdamWStep;

#endif
