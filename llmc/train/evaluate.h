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

// sums[PREFERENCE_LOSS]: of the losses, in nats; the others of comparisons only.
typedef struct {
    double sums[PREFERENCE_SUMS];
    int64_t targets; // or pairs
} Evaluated;

// *result (=) over all targets, or pairs, of the loader's first `batches` micro-batches, or of as many as an epoch has
// (loader_num_batches; at least one). ref_logprobs: of the set's answers (train/ref_logprobs.h), NULL where the
// loss needs none. The loader has grad_accum 1, one rank, and the model's B and T; the model's first `slots` host batches
// are overwritten, and its gradients. The ranks of the team (NULL: one) divide the micro-batches among them. Collective.
// Errors: the loader's.
int evaluate(Llama3 *m, Loader *loader, const float *ref_logprobs, const Team *team, int64_t batches, int slots,
             Evaluated *result, Error *err);

// text = how much of the set evaluate() goes through: "all 19 windows", "16 of 19 windows". False: not all.
bool evaluate_coverage(char *text, size_t capacity, const Loader *loader, int B, int64_t batches);

double evaluated_loss(const Evaluated *result); // mean; NAN: no target

#ifdef __cplusplus
}
#endif
#endif
