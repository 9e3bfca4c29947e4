// What llama3.c (memory, weights) and llama3_step.c (forward, backward, update) share.
#ifndef LLMC_MODEL_LLAMA3_INTERNAL_H
#define LLMC_MODEL_LLAMA3_INTERNAL_H

#include "model/llama3.h"
#include "model/memory.h"
#include "target/device.h"

// What the forward pass of a block leaves for its backward pass. N = B*T rows.
typedef struct {
    floatX *residual1; // [N, C] block's input
    floatX *norm1;     // [N, C]
    float *rstd1;      // [N]
    floatX *qkv;       // [N, (NH + 2 NKV) HD], rotated
    floatX *attention; // [N, NH HD]
    float *lse;        // [B, NH, T]
    floatX *residual2; // [N, C] after attention
    floatX *norm2;     // [N, C]
    float *rstd2;      // [N]
    floatX *gate_up;   // [N, 2F]
    floatX *swiglu;    // [N, F]
} LayerActivations;

// Values that change from step to step, read by kernels from device memory so that a captured graph stays valid.
typedef struct {
    float loss_scale; // 1 / number of the step's targets
    float max_loss;   // of a step whose update is made
    AdamWStep adamw;
} StepScalars;

typedef struct {
    float loss_sum, grad_norm;
    int apply;         // whether the update was made
    uint64_t checksum; // of the parameters
} StepResult;

struct Llama3 {
    LlamaConfig config;
    RunShape shape;
    ParameterTable table;
    MemoryPlan memory;
    cudaStream_t stream;
    int logits_rows; // rows of one chunk of the classifier

    // flat arrays of table.num_elements
    floatX *params;
    float *grads, *master, *moment1, *moment2;

    LayerActivations *layers;
    floatX *residual_final, *norm_final;
    float *rstd_final;
    floatX *delta; // [N, C] what attention or the FFN adds to the residual stream

    // gradients of activations, each used again in every block
    floatX *dresidual, *dnorm, *dqkv, *dattention, *dgate_up, *dswiglu;

    floatX *logits;           // [logits_rows, VP]
    float *losses;            // [N]
    float *attention_scratch; // [B, NH, T]
    float *rmsnorm_scratch, *norm_scratch;
    uint64_t *checksum_scratch;
    float *rope; // [T, HD/2, 2]

    int32_t *tokens, *targets, *doc_start, *order; // device copies of the running micro-batch
    StepScalars *scalars;                          // device
    StepResult *result;                            // device

    // host, page-locked
    Batch *batches; // [micro_batches]
    int32_t *batch_memory;
    StepScalars *host_scalars;
    StepResult *host_result;
    floatX *host_logits; // [VP]
};

int llama3_rows(const Llama3 *m);      // N
int llama3_qkv_width(const Llama3 *m); // (NH + 2 NKV) HD

// Forward to norm_final [rows*length, C] for `rows` rows of `length` tokens that stand in m->tokens and m->doc_start.
void llama3_forward(Llama3 *m, int rows, int length);

// The same, and calls visit (unless NULL) behind each block's attention with the block's rotated qkv, [rows*length, ...].
typedef void (*LayerVisit)(void *context, int layer, const floatX *qkv);
void llama3_forward_visit(Llama3 *m, int rows, int length, LayerVisit visit, void *context);

#endif
