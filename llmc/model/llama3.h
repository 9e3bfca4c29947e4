// The training step of a Llama 3 model.
//
//   fill llama3_batch(m, i) for every micro-batch i → llama3_begin_step
//   → for each i: llama3_gradients(m, i), or llama3_forward(m, i) → llama3_loss(m) → llama3_backward(m)
//   → llama3_clip_and_adamw → llama3_result (the step's only wait for the device)
//
// So that the device has work while the host reads a step's result and the data of the next, the next may begin before:
//
//   … → llama3_clip_and_adamw → llama3_end_step → the next step, to its last llama3_backward → llama3_take_result,
//   of the step that ended (waits for that step alone) → the next step's llama3_clip_and_adamw → …
//
// A step's result is then known before the next one's update is queued, and the weights are still those that it left.
#ifndef LLMC_MODEL_LLAMA3_H
#define LLMC_MODEL_LLAMA3_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/adamw.h"
#include "model/llama3_batch.h"
#include "model/llama3_create.h"

#ifdef __cplusplus
extern "C" {
#endif

// Starts a step whose micro-batches have num_targets targets (comparisons: pairs) in all, over all ranks: its loss is zero
// (=), and gradients of steps before, also of one that updated nothing, are no part of it.
void llama3_begin_step(Llama3 *m, int64_t num_targets);

// Micro-batch i from its tokens to the last norm's output. The loss and the backward pass that follow are of this one.
void llama3_forward(Llama3 *m, int i);

// The loss that the shape asks for, added (+=) to the step's: the cross-entropy of the targets, or the preference loss of
// the pairs of answers. Also its gradient with respect to the last norm's output (=) and to the classifier or reward
// head, as gradients of the mean over the step's num_targets: logits are never kept for a later pass.
void llama3_loss(Llama3 *m);

// From that gradient back to the embedding: gradients of all trained parameters. Those of the step's first micro-batch
// replace (=) what lay there, those of the others are added (+=) to them, the loss's too. In the step's last micro-batch
// (i == micro_batches - 1) they begin to be summed over the ranks, layer by layer, while the backward pass goes on.
void llama3_backward(Llama3 *m);

// These three for micro-batch i; with shape.graph, from the second micro-batch of a kind on, launched as a CUDA graph,
// with the same bits.
void llama3_gradients(Llama3 *m, int i);

// Gradients are summed over the ranks, clipped by their global norm, and AdamW updates this rank's shard; the parameters of
// the other shards arrive while the next forward pass runs. Collective. No weight or moment changes when the norm or the
// step's mean loss is not finite, or the loss is above max_loss (INFINITY: no limit).
void llama3_clip_and_adamw(Llama3 *m, const AdamWStep *step, float max_loss);

// Waits for the device. *loss: mean over the step's targets, in nats, and after llama3_clip_and_adamw over those of all
// ranks; *grad_norm: before clipping (NULL is allowed).
void llama3_result(Llama3 *m, float *loss, float *grad_norm);

// Ends a step of a training model without waiting: its result is on its way to the host. The next step's batches may be
// filled, and the step begun. llama3_take_result comes before the next llama3_end_step or llama3_result.
void llama3_end_step(Llama3 *m);

// As llama3_result, of the step that llama3_end_step ended; waits for that step, not for what was queued since.
void llama3_take_result(Llama3 *m, float *loss, float *grad_norm);

// [PREFERENCE_SUMS] of the step whose result was read last: sums over its targets (the loss alone) or pairs, and after
// llama3_clip_and_adamw over those of all ranks.
const float *llama3_step_sums(const Llama3 *m);

// Of the same step: whether llama3_clip_and_adamw changed the weights.
bool llama3_update_applied(const Llama3 *m);

// ---- evaluation: a step without gradients

// Forward pass and loss of micro-batch i, added (+=) to the step's, between llama3_begin_step and llama3_result.
void llama3_forward_loss(Llama3 *m, int i);

#ifdef __cplusplus
}
#endif
#endif
