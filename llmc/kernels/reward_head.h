// The head of a reward model: the score of an answer is the dot product of its last token's normed residual with one
// vector of weights. spans, counters, capacity: as in kernels/preference.h. C: a multiple of 16. Device memory throughout.
#ifndef LLMC_KERNELS_REWARD_HEAD_H
#define LLMC_KERNELS_REWARD_HEAD_H

#include <cuda_runtime.h>
#include <stdbool.h>

#include "device/types.h"

#ifdef __cplusplus
extern "C" {
#endif

// scores [capacity] = for the batch's answers, summed in fp32. x [N, C], w [C].
void reward_scores(float *scores, const floatX *x, const floatX *w, const int *spans, const int *counters, int capacity,
                   int C, cudaStream_t stream);

// The gradient of dloss[0] times the sum of dscores[a] * score of a: dx [N, C] =, which is 0 but at answers' last
// positions; dw [C] =, or += with accumulate, or NULL where it is not needed. dscores [capacity], dloss [1].
void reward_backward(floatX *dx, float *dw, const float *dscores, const float *dloss, const floatX *x, const floatX *w,
                     const int *spans, const int *counters, bool accumulate, int N, int C, int capacity,
                     cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
