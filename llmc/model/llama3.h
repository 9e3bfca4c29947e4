// A Llama 3 model on the device and its training step.
//
//   llama3_create → llama3_init_weights or llama3_set_parameter for each tensor
//   a step: fill llama3_batch(m, i) for every micro-batch i → llama3_begin_step
//           → for each i: llama3_forward(m, i) → llama3_loss(m) → llama3_backward(m)
//           → llama3_clip_and_adamw → llama3_result (the step's only wait for the device)
//
// All work is queued on the model's own stream; nothing is allocated after llama3_create.
#ifndef LLMC_MODEL_LLAMA3_H
#define LLMC_MODEL_LLAMA3_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"
#include "loader/batch.h"
#include "kernels/adamw.h"
#include "kernels/preference.h"
#include "model/config.h"
#include "model/memory.h"
#include "model/parallel.h"
#include "model/parameters.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int B, T;          // rows and tokens a row of a micro-batch
    int micro_batches; // a step's: so many host batches are kept
    bool training;     // false: no gradients, no optimizer state; only losses and logits
    bool recompute;    // keep each block's input only and compute the block again in the backward pass
    Parallel parallel; // {0}: one rank
    // Micro-batches are comparisons of answers (loader/batch.h), and the loss is this one of their pairs: of the answers'
    // log-probabilities, or, of a reward model, of their scores. Else it is the cross-entropy of the targets.
    bool comparisons;
    PreferenceLoss preference;
    bool average;     // keep a running mean of the master weights: llama3_average
    TrainedPart part; // {0}: everything is trained
} RunShape;

typedef struct Llama3 Llama3;

// Plans and allocates all memory. Errors: 2 (sizes the kernels cannot work with, T beyond max_position_embeddings),
// 1 (memory: bytes needed and free).
int llama3_create(Llama3 **out, const LlamaConfig *config, const RunShape *shape, Error *err);
void llama3_destroy(Llama3 *m); // NULL is allowed

// What llama3_create would allocate, and the same of a configuration file as text (memory_text). No device is needed.
int llama3_plan_memory(MemoryPlan *plan, const LlamaConfig *config, const RunShape *shape, Error *err);
int llama3_plan_text(char *text, size_t capacity, const char *config_path, const RunShape *shape, Error *err);

const LlamaConfig *llama3_config(const Llama3 *m);
const ParameterTable *llama3_parameters(const Llama3 *m);
int llama3_shard(const Llama3 *m); // which of the table's shards its training arrays hold
void llama3_print_memory(const Llama3 *m, FILE *to);

// ---- weights

// Seeded initial weights as the parameter table says. Clears the moments.
void llama3_init_weights(Llama3 *m, uint64_t seed);

// The same of adapters alone, whose moments stay as they are.
void llama3_init_adapters(Llama3 *m, uint64_t seed);

// values: host, rows*cols of the table's tensor `index`, floatX. Setting also sets the master weight and clears the
// tensor's moments; padding is zeroed.
void llama3_set_parameter(Llama3 *m, int index, const floatX *values);
void llama3_get_parameter(Llama3 *m, int index, floatX *values);

// Elements [first, first + count) of the tensor (row-major, count > 0), so that a tensor of any size goes through a small
// piece of host memory. Master weights and moments stay as they are: llama3_reset_training or the training pieces below
// follow. Every rank holds all parameters and sets them all.
void llama3_set_parameter_piece(Llama3 *m, int index, size_t first, size_t count, const floatX *values);
void llama3_get_parameter_piece(Llama3 *m, int index, size_t first, size_t count, floatX *values);

// Master weights become the parameters, widened; moments and mean zero. Queued on the device.
void llama3_reset_training(Llama3 *m);

// What the optimizer keeps of each parameter; of a model made for training.
// (Names of the arrays in files: checkpoint/parts.h.)
typedef enum {
    TRAINING_MASTER,
    TRAINING_MOMENT1,
    TRAINING_MOMENT2,
    TRAINING_AVERAGE, // where shape.average is set
    TRAINING_ARRAYS,  // at most
} TrainingArray;
int llama3_training_arrays(const Llama3 *m); // how many of them it keeps, from the first on

// Elements as above; what of them is not this shard's (parameter_piece) is left out. The parameter itself stays. values:
// at any address.
void llama3_set_training_piece(Llama3 *m, TrainingArray array, int index, size_t first, size_t count,
                               const float *values);
void llama3_get_training_piece(Llama3 *m, TrainingArray array, int index, size_t first, size_t count,
                               float *values); // all of them must be this shard's

// to: host, this shard's flat arrays [llama3_training_arrays][num_shard_elements], padding included (=). Waits for the
// device.
void llama3_get_training(Llama3 *m, float *to);

// As accumulated in this step on this rank, before clipping; not of gradient shards (zero 2), nor of units without a
// trained tensor (parameters.h).
void llama3_get_gradient(Llama3 *m, int index, float *values);

// sums[table count]: of each tensor as floatX (kernels/checksum.h). The same on ranks that hold the same bits, however
// training is divided. Training only. Waits.
void llama3_checksums(Llama3 *m, uint64_t *sums);

// One of all tensors: the sum of sums[i] * (2 i + 1) modulo 2^64.
uint64_t llama3_checksum(Llama3 *m);

// ---- training step

// Host memory of micro-batch i, free to be overwritten from llama3_result (or create) until llama3_forward(m, i).
Batch *llama3_batch(Llama3 *m, int i);

// [B*T/2] of micro-batch i, likewise: the reference model's log-probability of each of the batch's answers, for losses of
// log-probabilities. NULL without comparisons.
float *llama3_ref_logprobs(Llama3 *m, int i);

// Starts a step whose micro-batches have num_targets targets (comparisons: pairs) in all, over all ranks: gradients and
// loss are zeroed (=).
void llama3_begin_step(Llama3 *m, int64_t num_targets);

// Micro-batch i from its tokens to the last norm's output. The loss and the backward pass that follow are of this one.
void llama3_forward(Llama3 *m, int i);

// The loss that the shape asks for, added (+=) to the step's: the cross-entropy of the targets, or the preference loss of
// the pairs of answers. Also its gradient with respect to the last norm's output (=) and to the classifier or reward
// head (+=), as gradients of the mean over the step's num_targets: logits are never kept for a later pass.
void llama3_loss(Llama3 *m);

// From that gradient back to the embedding: gradients of all trained parameters (+=). In the step's last micro-batch
// (i == micro_batches - 1) they begin to be summed over the ranks, layer by layer, while the backward pass goes on.
void llama3_backward(Llama3 *m);

// Gradients are summed over the ranks, clipped by their global norm, and AdamW updates this rank's shard; the parameters of
// the other shards arrive while the next forward pass runs. Collective. No weight or moment changes when the norm or the
// step's mean loss is not finite, or the loss is above max_loss (INFINITY: no limit).
void llama3_clip_and_adamw(Llama3 *m, const AdamWStep *step, float max_loss);

// Waits for the device. *loss: mean over the step's targets, in nats; after llama3_clip_and_adamw over those of all ranks; *grad_norm: before clipping (NULL allowed).
void llama3_result(Llama3 *m, float *loss, float *grad_norm);

// [PREFERENCE_SUMS] after llama3_result: sums over the step's targets (the loss alone) or pairs, of all ranks after
// llama3_clip_and_adamw.
const float *llama3_step_sums(const Llama3 *m);

// After llama3_result: whether llama3_clip_and_adamw changed the weights.
bool llama3_update_applied(const Llama3 *m);

// ---- the mean of the weights over steps; needs shape.average

// The master weights of now are one more sample, the samples-th (from 1), of their running mean. Queued on the device.
void llama3_average(Llama3 *m, int64_t samples);

// The parameters become the mean, rounded (which needs a sample), or the master weights again. Collective. Between the two
// calls there is no training step and no checkpoint.
void llama3_use_average(Llama3 *m, bool use);

// ---- without gradients

// Adds micro-batch i's losses to the step's loss, for llama3_begin_step and llama3_result around it.
void llama3_forward_loss(Llama3 *m, int i);

// values: host, [num_answers] = of micro-batch i, which holds comparisons: the log-probability of each answer's targets given
// what is before them, in nats; of a reward model its score. Waits.
void llama3_answer_values(Llama3 *m, int i, float *values);

// The same of a reward model, where micro-batch 0 is `rows` rows of `length` tokens in place of B of T (rows <= B, length <= T):
// scores, [num_answers], of the answers' last tokens. Neither targets nor groups are read.
void llama3_scores(Llama3 *m, int rows, int length, float *scores);

// Of a language model: losses: host, [B*T] = the loss of each target of micro-batch i, in nats, 0 where it is -1. forward false: the model has
// run forward over the same tokens just before, only the targets are others. Waits.
void llama3_token_losses(Llama3 *m, int i, bool forward, float *losses);

// Of a language model: logits: host, [vocab_size] after the last of n tokens (1 <= n <= T; ids within the vocabulary). Waits.
void llama3_logits(Llama3 *m, const int32_t *tokens, int n, float *logits);

#ifdef __cplusplus
}
#endif
#endif
