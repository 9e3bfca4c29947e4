// What llama3_create.c (memory), llama3_weights.c (weights in and out), llama3.c (forward, backward, update), llama3_loss.c
// (what is between forward and backward) and zero.c (what of it is exchanged between ranks) share.
#ifndef LLMC_MODEL_LLAMA3_INTERNAL_H
#define LLMC_MODEL_LLAMA3_INTERNAL_H

#include "kernels/attention_shape.h"
#include "model/llama3.h"
#include "model/memory.h"
#include "device/device.h"

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
    float sums[PREFERENCE_SUMS]; // over the step's targets or pairs; without comparisons the loss alone
    float square_sum;            // of all gradients
    float grad_norm;
    int apply; // whether the update was made
} StepResult;
_Static_assert(PREFERENCE_LOSS == 0, "the sum of losses stands first");

// What of comparisons is on the device, for up to B*T/2 answers.
typedef struct {
    int *hidden;                // [N, 2]
    int *spans, *groups;        // [answers, 2]
    int *counters;              // [2] answers, groups
    float *values;              // [answers] log-probabilities or scores
    float *targets, *reference; // [answers] numbers of targets; log-probabilities of the reference model
    float *danswers;            // [answers] derivative of the loss
    float *weights;             // [N] of each target's loss
} Comparisons;

// A bucket's collectives.
typedef struct {
    char gradients[64], replicas[64], parameters[64]; // labels
    CommOp *reduce, *replicate, *gather;
    float *grads; // its gradient's first element; with gradient shards while they are being computed
    bool reduced; // in this step the sum over the ranks has begun
} BucketState;

// With gradient shards: where a bucket's gradients of one micro-batch are computed and reduced.
typedef struct {
    float *whole, *piece; // [bucket], [bucket / shards] = the sum over the ranks of this shard's piece
    CommOp *reduce;
    int bucket; // whose sum is on its way to `piece`; -1: none
} GradientSlot;
enum { SLOT_EVEN_LAYERS, SLOT_ODD_LAYERS, SLOT_VOCABULARY, SLOT_NORMS, GRADIENT_SLOTS };

// Of adapters, [N] rows each: x A^T, its gradient, and what is as wide as a projection's output or input.
typedef struct {
    floatX *low, *dlow, *wide;
} LoraScratch;

struct Llama3 {
    LlamaConfig config;
    RunShape shape;
    ParameterTable table;
    MemoryPlan memory;
    cudaStream_t stream;
    int logits_rows; // rows of one chunk of the classifier

    floatX *params; // [table.num_elements]
    float *grads;   // [table.num_trained_elements], or with gradient shards [table.num_shard_elements]
    float *master, *moment1, *moment2; // [table.num_shard_elements]
    float *average;                    // likewise, with shape.average; else NULL

    bool gradient_shards;
    bool last_micro_batch; // the running one is the step's last
    BucketState *buckets;  // [table.num_buckets]
    GradientSlot slots[GRADIENT_SLOTS];
    CommOp *sum_loss, *sum_squares, *replicate_shard;

    LayerActivations *layers;
    floatX *residual_final, *norm_final;
    float *rstd_final;
    floatX *delta; // [N, C] what attention or the FFN adds to the residual stream

    // gradients of activations, each used again in every block
    floatX *dresidual, *dnorm, *dqkv, *dattention, *dgate_up, *dswiglu;

    LoraScratch lora; // NULLs without adapters

    floatX *logits;           // [logits_rows, VP]
    float *losses;            // [N]
    float *attention_scratch; // [B, NH, T]
    float *rmsnorm_scratch, *norm_scratch;
    uint64_t *checksum_scratch, *checksums; // checksums: [table.count]
    float *rope;                            // [T, HD/2, 2]

    int32_t *tokens, *targets, *doc_start, *order; // device copies of the running micro-batch
    const int *hidden;                             // likewise, of comparisons; else NULL
    Comparisons comparisons;
    StepScalars *scalars; // device
    StepResult *result;   // device

    // host, page-locked
    Batch *batches; // [micro_batches]
    char *batch_memory;
    float *host_reference;  // [micro_batches][B*T/2], NULL without comparisons
    int32_t *host_counters; // [micro_batches][2], likewise
    StepScalars *host_scalars;
    StepResult *host_result;
    floatX *host_logits; // [VP]
};

int llama3_rows(const Llama3 *m);      // N
int llama3_qkv_width(const Llama3 *m); // (NH + 2 NKV) HD
AttentionShape llama3_attention_shape(const Llama3 *m, int B, int T);

void llama3_clear_padding(Llama3 *m); // of the parameters, and the training arrays; both stay zero from then on

// ---- zero.c

int shards_prepare(Llama3 *m, Error *err); // Errors: 1
void shards_free(Llama3 *m);
void shards_plan(Llama3 *m); // takes gradients and what belongs to them

void shards_begin_step(Llama3 *m);
// A bucket in which nothing is trained takes no part in any of this.
void shards_open(Llama3 *m, int bucket);  // before the first gradient of a micro-batch is added to the bucket
void shards_close(Llama3 *m, int bucket); // after the last
float *shards_gradient(Llama3 *m, int bucket,
                       size_t offset); // of the flat element `offset`, which is in the open bucket

void shards_finish_gradients(Llama3 *m); // from here on this shard's gradients are sums over the ranks
void shards_sum_result(Llama3 *m);       // sums and square_sum too

// This shard's part of a trained range, which may be none; after shards_finish_gradients.
typedef struct {
    floatX *params;
    float *grads, *master, *moment1, *moment2;
    float *average; // NULL: none is kept
    size_t count;
} ShardPiece;
ShardPiece shards_piece(Llama3 *m, int range);
void shards_gather(Llama3 *m, int bucket); // gives the bucket's new parameters to the others
void shards_await(Llama3 *m, int bucket);  // the forward pass may use the bucket's parameters
void shards_await_all(Llama3 *m);

// ---- llama3_linear.c

// The products of a linear layer y[N,OC] = x[N,IC] · w[OC,IC]^T, w at that offset of the parameters; backward: the weight's
// gradient (+=, in that bucket, which is open; none where w is frozen) and dx (=; NULL: not needed).
void llama3_linear(Llama3 *m, floatX *y, const floatX *x, size_t w, int N, int OC, int IC);
void llama3_linear_backward(Llama3 *m, floatX *dx, const floatX *dy, const floatX *x, int bucket, size_t w, int N,
                            int OC, int IC);

int llama3_layer_bucket(int layer);

// A layer's product y [N,OC] = x [N,IC] · w^T, adapters included; backward: gradients of what of it is trained (+=), dx (=). N
// is at most llama3_rows(m).
void llama3_project(Llama3 *m, floatX *y, const floatX *x, int layer, LayerUnit unit, int N);
void llama3_project_backward(Llama3 *m, floatX *dx, const floatX *dy, const floatX *x, int layer, LayerUnit unit,
                             int N);

// ---- llama3_step.c

// Forward to norm_final [rows*length, C] for `rows` rows of `length` tokens that stand in m->tokens and m->doc_start.
void llama3_run_forward(Llama3 *m, int rows, int length);

// The same, and calls visit (unless NULL) behind each block's attention with the block's rotated qkv, [rows*length, ...].
typedef void (*LayerVisit)(void *context, int layer, const floatX *qkv);
void llama3_forward_visit(Llama3 *m, int rows, int length, LayerVisit visit, void *context);

// ---- llama3_loss.c

// From norm_final to losses, whose sum is added to the step's; with_gradient: dnorm = their gradient, and that of the
// classifier's weights (+=).
void llama3_make_loss(Llama3 *m, bool with_gradient);

void llama3_token_loss(Llama3 *m, bool with_gradient); // the cross-entropy of targets, whatever the step's loss is
void llama3_value_answers(Llama3 *m);                  // from norm_final to comparisons.values
int llama3_answers_at_most(const Llama3 *m);           // of a micro-batch

#endif
