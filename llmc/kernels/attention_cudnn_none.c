// attention_cudnn.h in a program that was built without cuDNN.
#include <stddef.h>

#include "kernels/attention_cudnn.h"

int cudnn_attention_check(Error *err) {
    return fail_input(err, "this program was built without cuDNN; make TARGET=cuda USE_CUDNN=1 builds it in");
}

int cudnn_attention_create(CudnnAttention **out, AttentionShape shape, CudnnBackward backward,
                           const CudnnDevice *device, Error *err) {
    (void)shape, (void)backward, (void)device;
    *out = NULL;
    return cudnn_attention_check(err);
}

const char *cudnn_attention_version(void) { return "none"; }

// No attention was created: the others are never called.
void cudnn_attention_destroy(CudnnAttention *a) { (void)a; }
size_t cudnn_attention_workspace(const CudnnAttention *a) {
    (void)a;
    return 0;
}
void cudnn_attention_forward(CudnnAttention *a, floatX *out, float *lse, const floatX *qkv, void *workspace,
                             cudaStream_t stream) {
    (void)a, (void)out, (void)lse, (void)qkv, (void)workspace, (void)stream;
}
void cudnn_attention_backward(CudnnAttention *a, floatX *dqkv, const floatX *dout, const floatX *out, const floatX *qkv,
                              const float *lse, void *workspace, cudaStream_t stream) {
    (void)a, (void)dqkv, (void)dout, (void)out, (void)qkv, (void)lse, (void)workspace, (void)stream;
}
