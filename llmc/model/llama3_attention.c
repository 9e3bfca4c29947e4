// Who computes attention: this program's kernels, or cuDNN where the model asks for it and the batch allows it.
#include "kernels/attention.h"
#include "model/llama3_state.h"

int llama3_plan_attention(Llama3 *m, Error *err) {
    static const CudnnBackward backward[] = {
        [ATTENTION_CUDNN] = CUDNN_SAME_BITS,
        [ATTENTION_CUDNN_NONDETERMINISTIC] = CUDNN_ANY_ORDER,
    };
    const RunShape *shape = &m->shape;
    if (shape->attention == ATTENTION_OWN) return 0;
    m->memory.advice = "--attention own, or a smaller --batch-size or --seq-len,";
    return cudnn_attention_create(&m->attention.cudnn, llama3_attention_shape(m, shape->B, shape->T),
                                  shape->training ? backward[shape->attention] : CUDNN_NO_BACKWARD, NULL, err);
}

void llama3_place_attention(Llama3 *m) {
    LibraryAttention *a = &m->attention;
    if (a->cudnn) a->workspace = memory_take(&m->memory, MEMORY_CUDNN, cudnn_attention_workspace(a->cudnn));
}

// cuDNN's plan is for one shape, and its kernels know no documents.
static bool by_cudnn(const Llama3 *m, AttentionShape shape) {
    return m->attention.cudnn && !m->batch.masked && shape.B == m->shape.B && shape.T == m->shape.T;
}

void llama3_attention_forward(Llama3 *m, const LayerActivations *a, AttentionMask mask, AttentionShape shape) {
    if (by_cudnn(m, shape))
        cudnn_attention_forward(m->attention.cudnn, a->attention, a->lse, a->qkv, m->attention.workspace, m->stream);
    else
        attention_forward(a->attention, a->lse, a->qkv, mask, shape, m->stream);
}

void llama3_attention_backward(Llama3 *m, const LayerActivations *a, AttentionMask mask, AttentionShape shape) {
    const Gradients *d = &m->grads;
    if (by_cudnn(m, shape))
        cudnn_attention_backward(m->attention.cudnn, d->qkv, d->attention, a->attention, a->qkv, a->lse,
                                 m->attention.workspace, m->stream);
    else
        attention_backward(d->qkv, d->attention_scratch, d->attention, a->attention, a->qkv, a->lse, mask, shape,
                           m->stream);
}
