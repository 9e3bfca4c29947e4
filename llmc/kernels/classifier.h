// Softmax and cross-entropy over a chunk of logits: loss = log(sum_v exp(logit_v)) - logit_target, and its gradient
// (softmax - onehot) times a factor, written over the logits. A row holds V logits and is padded to VP columns (a multiple
// of 128); what stands in the padding is never used. A target of -1 is ignored: loss 0, gradient 0.
#ifndef LLMC_KERNELS_CLASSIFIER_H
#define LLMC_KERNELS_CLASSIFIER_H

#include <cuda_runtime.h>

#include "device/types.h"

#ifdef __cplusplus
extern "C" {
#endif

// losses [n] =, in nats; logits [n,VP] unchanged, 16-byte aligned; targets [n], each -1 or in 0..V-1.
void cross_entropy_forward(float *losses, const floatX *logits, const int *targets, int n, int V, int VP,
                           cudaStream_t stream);

// losses [n] =, unweighted; logits [n,VP] = the gradient of dloss[0] * sum of weights[i] * losses[i], 0 in the padding and
// in ignored rows. weights [n], of any sign, or NULL: all 1. dloss [1] is on the device: 1 / number of targets for the mean.
void cross_entropy_backward(float *losses, floatX *logits, const int *targets, const float *weights, const float *dloss,
                            int n, int V, int VP, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
