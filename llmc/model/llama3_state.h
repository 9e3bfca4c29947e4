// The state of a model, which llama3_create.c (memory), llama3_batch.c (micro-batches), llama3_weights.c (weights),
// llama3.c (training) and llama3_inference.c share. N = B*T is the number of token positions of a micro-batch.
#ifndef LLMC_MODEL_LLAMA3_STATE_H
#define LLMC_MODEL_LLAMA3_STATE_H

#include <stdint.h>

#include "device/device.h"
#include "kernels/adamw.h"
#include "kernels/attention_cudnn.h"
#include "loader/batch.h"
#include "model/block_inputs.h"
#include "model/llama3_network.h"
#include "model/memory.h"
#include "model/offload.h"
#include "model/run_shape.h"
#include "model/training_array.h"
#include "model/zero.h"

// What a block's forward pass leaves for its backward pass.
typedef struct {
    floatX *residual1; // [N, C] the block's input
    floatX *norm1;     // [N, C]
    float *rstd1;      // [N]
    floatX *qkv;       // [N, (NH + 2 NKV) HD], rotated
    floatX *attention; // [N, NH HD]
    float *lse;        // [B, NH, T]
    floatX *residual2; // [N, C] after attention
    floatX *norm2;     // [N, C]
    float *rstd2;      // [N]
    floatX *gate_up;   // [N, 2F]; from the backward pass of SwiGLU on their gradient
    floatX *swiglu;    // [N, F]
} LayerActivations;

typedef struct {
    LayerActivations *layers;
    BlockInputs inputs;           // ACTIVATIONS_HOST: residual1 of the layers that are trained
    floatX *branch_out;           // [N, C] what attention or the FFN adds to the residual stream
    floatX *final_residual;       // [N, C] after the last block
    floatX *final_norm;           // [N, C]
    float *final_rstd;            // [N]
    floatX *lora_low, *lora_wide; // adapters: [N, rank] x A^T; [N, as wide as a projection]
} Activations;

// Of activations, each used again in every block; gradients of parameters are in Zero. Those of the MLP share memory with
// those of attention, and with what the last norm leaves.
typedef struct {
    floatX *residual;         // [N, C]
    floatX *norm;             // [N, C]
    floatX *qkv;              // [N, (NH + 2 NKV) HD]
    floatX *attention;        // [N, NH HD]
    float *attention_scratch; // [limits.attention_scratch]
    floatX *swiglu;           // [N, F]
    floatX *lora_low;         // [N, rank]
    float *rmsnorm_scratch;
} Gradients;

// Logits exist for one chunk of rows at a time.
typedef struct {
    int rows;       // of a chunk
    floatX *logits; // [rows, VP]; while gradients are computed, their gradient
    float *losses;  // [N]
} Classifier;

// The running micro-batch on the device (loader/batch.h).
typedef struct {
    int32_t *tokens, *targets, *doc_start, *order;
    int *all_excluded;   // [N, 2]
    const int *excluded; // all_excluded, or NULL: nothing is excluded
    bool masked;         // attention has to look at doc_start or excluded: a row is not one document
    bool last;           // it is the step's last one
} DeviceBatch;

// What of comparisons is on the device, for up to B*T/2 answers.
typedef struct {
    int *spans, *groups; // [answers, 2]
    int *counters;       // [2] answers, groups
    float *seq_logprobs; // [answers] log-probabilities, or a reward model's scores
    float *num_targets;  // [answers]
    float *ref_logprobs; // [answers] by the reference model
    float *dseq;         // [answers] derivative of the loss
    float *weights;      // [N] of each target's loss
} AnswerBatch;

// With shape.attention; else NULL.
typedef struct {
    CudnnAttention *cudnn; // for rows B and T of the shape
    void *workspace;
} LibraryAttention;

typedef struct {
    // [num_shard_elements] each
    float *master;           // NULL: the parameters are the weights (MASTER_NONE)
    void *moment1, *moment2; // fp32, or bf16 (MOMENTS_BF16)
    Offload offload;         // STATE_HOST: these three lie there, in host memory that kernels can read and write too
    float *average;          // with shape.average; else NULL
    float *norm_scratch;
    float *square_sums; // [table.num_ranges] of this shard's gradients in each trained range
} Optimizer;

// What changes from step to step; kernels read it from device memory, so that a captured graph stays valid.
typedef struct {
    float loss_scale; // 1 / number of the step's targets
    float max_loss;   // above it no update is made
    AdamWStep adamw;
} StepScalars;

typedef struct {
    float sums[PREFERENCE_SUMS]; // over the step's targets or pairs; without comparisons the loss alone
    float square_sum;            // of all gradients, in the order of the ranges
    float grad_norm;
    int apply; // whether the update was made
} StepResult;
_Static_assert(PREFERENCE_LOSS == 0, "the sum of losses stands first");

// A step may begin before the result of the one before is read: the host has scalars and batches of both.
enum { STEP_SLOTS = 2 };

typedef struct {
    StepScalars *scalars, *host_scalars; // host: [STEP_SLOTS]
    StepResult *result, *host_result;
    int slot;          // the running step's
    cudaEvent_t ended; // the result of the step before has arrived
} Step;

// In page-locked host memory; STEP_SLOTS of each for training, else one.
typedef struct {
    Batch *batches; // [slots][micro_batches]
    char *batch_memory;
    float *ref_logprobs; // [slots][micro_batches][B*T/2], NULL without comparisons
    int32_t *counters;   // [slots][micro_batches][2], likewise
    floatX *logits;      // [VP]
    float *rope;         // [limits.T, HD/2, 2], pageable
} HostMemory;

// Of a micro-batch that is the step's first or a later one, its last or not: llama3_graph.c.
enum { MICRO_BATCH_KINDS = 4 };
typedef struct {
    bool seen; // one was computed
    cudaGraphExec_t exec;
    void *after; // the gradients' state (zero_get_state); NULL without shape.graph
} MicroBatchGraph;

// The most that any of the shapes needs that the model may take: what memory is planned for.
typedef struct {
    int positions, T, micro_batches; // N, tokens of a row, micro-batches of a step
    size_t batch_bytes;              // host memory of a step's micro-batches
    size_t ref_logprobs;             // of a step, where micro-batches are comparisons
    size_t attention_scratch;        // floats
} ShapeLimits;

typedef struct {
    uint64_t *sums; // [table.count]
    uint64_t *scratch;
} Checksums;

struct Llama3 {
    LlamaConfig config;
    RunShape shape; // B, T and micro_batches: of the running step
    ShapeLimits limits;
    ParameterTable table;
    MemoryPlan memory;
    cudaStream_t stream;
    floatX *params; // [table.num_elements]
    float *rope;    // [limits.T, HD/2, 2]
    Activations acts;
    Gradients grads;
    LibraryAttention attention;
    Classifier classifier;
    DeviceBatch batch;
    AnswerBatch answers;
    Optimizer optimizer;
    Zero *zero; // NULL without training
    Step step;
    MicroBatchGraph graphs[MICRO_BATCH_KINDS];
    Checksums checksums;
    HostMemory host;
};

static inline int num_positions(const Llama3 *m) { return m->shape.B * m->shape.T; } // N
static inline int max_answers(const Llama3 *m) { return num_positions(m) / 2; }      // of a micro-batch

static inline size_t llama3_moment_bytes(const Llama3 *m) { // of an element
    return m->shape.moments == MOMENTS_BF16 ? 2 : sizeof(float);
}

// ---- llama3_rows.c

int llama3_find_limits(Llama3 *m, Error *err); // of m->shape, of which `rows` is read. Errors: 2 (as llama3_create)
void llama3_upload_rope(Llama3 *m);            // the table that the configuration asks for. Waits

// ---- llama3_batch.c

void llama3_plan_batch(Llama3 *m);                  // takes the device's memory
size_t llama3_batch_bytes(int positions);           // host memory of a micro-batch
int llama3_allocate_batches(Llama3 *m, Error *err); // for the largest shape
void llama3_place_batches(Llama3 *m);               // for the one that the model has
void llama3_free_batches(Llama3 *m);

// These queue copies to the device; what they set is the running micro-batch.
void llama3_upload_batch(Llama3 *m, int i);               // micro-batch i
void llama3_upload_rows(Llama3 *m, int rows, int length); // of micro-batch 0: tokens of such rows, and their masks
void llama3_upload_answers(Llama3 *m, int i);             // of micro-batch i
void llama3_upload_text(Llama3 *m, const int32_t *tokens, int n); // one row, one document

// n <= N targets, and in place of `order` the positions that predict them.
void llama3_upload_targets(Llama3 *m, const int32_t *positions, const int32_t *targets, int n);

// Bytes from the device, after what the model's stream holds; waits for them.
void llama3_download(Llama3 *m, void *to, const void *from, size_t bytes);

// ---- llama3_attention.c

int llama3_plan_attention(Llama3 *m, Error *err); // before memory is planned. Errors: those of cudnn_attention_create
void llama3_place_attention(Llama3 *m);           // takes the device's memory

// Step 4 of a block and its backward pass: a's attention and lse (=) from its qkv; grads.qkv (=) from grads.attention.
void llama3_attention_forward(Llama3 *m, const LayerActivations *a, AttentionMask mask, AttentionShape shape);
void llama3_attention_backward(Llama3 *m, const LayerActivations *a, AttentionMask mask, AttentionShape shape);

// ---- llama3_graph.c

int llama3_allocate_graphs(Llama3 *m, Error *err); // after m->zero is there. Errors: 1 (memory)
void llama3_forget_graphs(Llama3 *m);              // they are captured anew; none of them runs
void llama3_free_graphs(Llama3 *m);

// ---- llama3_optimizer.c

void llama3_plan_optimizer(Llama3 *m);             // takes the memory of the optimizer's state
int llama3_start_optimizer(Llama3 *m, Error *err); // after memory is there, and zero_start. Errors: 1 (memory)

// With STATE_HOST, around a step: the first of the state's pieces are on their way from begin on, and what is queued after
// end finds all of it in host memory. Between them nobody else reads or writes it.
void llama3_begin_optimizer_step(Llama3 *m);
void llama3_end_optimizer_step(Llama3 *m);

// AdamW on a piece of the bucket, as the step's scalars and result say; buckets with the norms' first, then by number.
void llama3_adamw(Llama3 *m, int bucket, ZeroPiece piece);

// Elements [at, at + count) of the shard's training arrays, from and to host memory in fp32, rounded to nearest where they are
// kept in bf16; without master weights these are the parameters: read as they are, and never written. Waits. values: at any
// address.
void llama3_read_training(Llama3 *m, TrainingArray array, size_t at, size_t count, float *values);
void llama3_write_training(Llama3 *m, TrainingArray array, size_t at, size_t count, const void *values);

void llama3_clear_training(Llama3 *m, TrainingArray first_array, size_t at, size_t count); // and the arrays after it

// ---- llama3_weights.c

void llama3_clear_padding(Llama3 *m); // of the parameters, and the training arrays; both stay zero from then on

// ---- llama3.c

// Forward to acts.final_norm [rows*length, C] for `rows` rows of `length` tokens of the running micro-batch. visit is called
// after each block with its rotated qkv; NULL is allowed.
void llama3_run_forward(Llama3 *m, int rows, int length, LayerVisit visit, void *context);

void llama3_value_answers(Llama3 *m); // from final_norm to answers.seq_logprobs

// classifier.logits [rows, VP] = of x [rows, C]; rows is at most classifier.rows.
void llama3_make_logits(Llama3 *m, const floatX *x, int rows);

#endif
