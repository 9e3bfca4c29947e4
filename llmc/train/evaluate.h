// Validation loss over a fixed set of windows.
#ifndef LLMC_TRAIN_EVALUATE_H
#define LLMC_TRAIN_EVALUATE_H

#include <stdbool.h>
#include <stddef.h>

#include "loader/loader.h"
#include "model/llama3_create.h"
#include "ranks/team.h"

#ifdef __cplusplus
extern "C" {
#endif

// sums[PREFERENCE_LOSS] is the sum of the losses, in nats; the other sums are set for comparisons only.
typedef struct {
    double sums[PREFERENCE_SUMS];
    int64_t targets; // of comparisons: pairs
} Evaluated;

// *result = the sums over all targets, or pairs, of the loader's first `batches` micro-batches; of one epoch, if that is less
// (loader_num_batches, at least one). ref_logprobs: of the set's answers (train/ref_logprobs.h); NULL where the loss needs
// none. The loader has grad_accum 1, one rank, and the model's B and T. Overwrites the model's gradients and first `slots` host
// batches. The ranks of the team (NULL: one rank) divide the micro-batches among them. Collective. Errors: the loader's.
int evaluate(Llama3 *m, Loader *loader, const float *ref_logprobs, const Team *team, int64_t batches, int slots,
             Evaluated *result, Error *err);

// text = how much of the set evaluate() covers: "all 19 windows" or "16 of 19 windows". Returns whether it covers all.
bool evaluate_coverage(char *text, size_t capacity, const Loader *loader, int B, int64_t batches);

void evaluated_add(Evaluated *to, const Evaluated *more); // +=

double evaluated_loss(const Evaluated *result); // the mean; NAN: there was no target

#ifdef __cplusplus
}
#endif
#endif
