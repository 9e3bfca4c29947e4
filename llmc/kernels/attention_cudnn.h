// Attention by cuDNN, in place of kernels/attention.h, for rows of one document each: softmax(Q K^T / sqrt(HD)) V, where a
// query sees its own key and those before it. Shapes and layouts are those of attention.h, so that one's forward pass and
// the other's backward pass fit together.
//
// A program built without cuDNN (make USE_CUDNN=0, the default) has the same functions, and they refuse.
#ifndef LLMC_KERNELS_ATTENTION_CUDNN_H
#define LLMC_KERNELS_ATTENTION_CUDNN_H

#include <cuda_runtime.h>
#include <stdbool.h>

#include "base/error.h"
#include "device/types.h"
#include "kernels/attention_shape.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct CudnnAttention CudnnAttention;

typedef enum {
    CUDNN_NO_BACKWARD,
    CUDNN_SAME_BITS, // the same inputs give the same bits, for a workspace of 2 bytes for each of B NH T T scores
    CUDNN_ANY_ORDER, // dQ is added up in whatever order blocks end: less workspace, other bits in every run
} CudnnBackward;

// Errors: 2 (built without cuDNN, or in fp32).
int cudnn_attention_check(Error *err);

// The version of cuDNN that computes: "9.19.0".
const char *cudnn_attention_version(void);

// A device that is not here.
typedef struct {
    int sm;                 // 90
    const char *properties; // in the JSON of cuDNN's device property descriptor
} CudnnDevice;

// Chooses cuDNN's kernels for the shape, once; nothing is chosen or allocated later. device: NULL for the current one; for
// another, only the workspace can be asked. Errors: 2 (as cudnn_attention_check, or cuDNN has no kernels for the shape), 1.
int cudnn_attention_create(CudnnAttention **out, AttentionShape shape, CudnnBackward backward,
                           const CudnnDevice *device, Error *err);
void cudnn_attention_destroy(CudnnAttention *a); // NULL is allowed

size_t cudnn_attention_workspace(const CudnnAttention *a); // bytes on the device, for one call at a time

// As attention_forward and attention_backward, of B rows of T tokens. The workspace is overwritten. A failure of the
// library ends the program with code 1 and one line.
void cudnn_attention_forward(CudnnAttention *a, floatX *out, float *lse, const floatX *qkv, void *workspace,
                             cudaStream_t stream);
void cudnn_attention_backward(CudnnAttention *a, floatX *dqkv, const floatX *dout, const floatX *out, const floatX *qkv,
                              const float *lse, void *workspace, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
