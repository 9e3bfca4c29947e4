// What a model is made for: the sizes of a step, what of it is trained and how, and the ranks that share the training.
#ifndef LLMC_MODEL_RUN_SHAPE_H
#define LLMC_MODEL_RUN_SHAPE_H

#include <stdbool.h>

#include "kernels/preference.h"
#include "model/parallel.h"
#include "model/parameters.h"

// Who computes attention. cuDNN does where rows are one document each; where documents are masked this program's kernels do.
typedef enum { ATTENTION_OWN, ATTENTION_CUDNN, ATTENTION_CUDNN_NONDETERMINISTIC } AttentionBy;

// What the backward pass computes again, to the same bits, rather than keep it from the forward pass: nothing; the outputs
// of norms and of SwiGLU, which cost no matrix product; or the whole block, from its input.
typedef enum { RECOMPUTE_NONE, RECOMPUTE_CHEAP, RECOMPUTE_BLOCK } Recompute;

// What the optimizer keeps of a weight. Numbers in bf16 are rounded stochastically (kernels/adamw_rounded.h).
typedef enum { MOMENTS_FP32, MOMENTS_BF16 } Moments;
typedef enum { MASTER_FP32, MASTER_NONE } MasterWeights; // none: the parameters themselves are updated
typedef enum { STATE_DEVICE, STATE_HOST } StatePlace;    // where it lies; from the host it is streamed (offload.h)

typedef enum { ACTIVATIONS_DEVICE, ACTIVATIONS_HOST } ActivationsPlace; // host: the inputs of blocks (block_inputs.h)

// A step's micro-batches.
typedef struct {
    int B, T;          // rows of a micro-batch and tokens of a row
    int micro_batches; // of a step; so many host batches are kept
} RowShape;

typedef struct {
    int B, T, micro_batches; // as in RowShape: those of the first step
    // [num_rows] what llama3_set_rows may choose beside them: memory is planned for the most that any of these needs.
    // Read by llama3_create alone.
    const RowShape *rows;
    int num_rows;
    bool training; // false: no gradients and no optimizer state, only losses and logits
    Recompute recompute;
    ActivationsPlace activations;
    Moments moments;
    MasterWeights master_weights;
    StatePlace optimizer_state;
    Parallel parallel; // {0}: one rank
    // Micro-batches are comparisons of answers (loader/batch.h), and the loss is `preference` of their pairs: of the answers'
    // log-probabilities or, of a reward model, of their scores. Otherwise it is the cross-entropy of the targets.
    bool comparisons;
    PreferenceLoss preference;
    bool average;     // keep a running mean of the master weights: llama3_average
    TrainedPart part; // {0}: everything is trained
    AttentionBy attention;
    // llama3_gradients launches a micro-batch as a CUDA graph: one rank, ATTENTION_OWN, ACTIVATIONS_DEVICE, and not while
    // tracing
    bool graph;
} RunShape;

#endif
