// Validation loss over a fixed set of windows.
#ifndef LLMC_TRAIN_EVALUATE_H
#define LLMC_TRAIN_EVALUATE_H

#include "data/loader.h"
#include "model/llama3.h"
#include "train/team.h"

#ifdef __cplusplus
extern "C" {
#endif

// *loss = mean over all targets, in nats, of the loader's first `batches` micro-batches, or of as many as an epoch has
// (loader_num_batches; at least one). The loader has grad_accum 1, one rank, and the model's B and T; the model's first
// `slots` host batches are overwritten, and its gradients. The ranks of the team (NULL: one) divide the micro-batches
// among them. Collective. Errors: the loader's.
int evaluate(Llama3 *m, Loader *loader, const Team *team, int64_t batches, int slots, double *loss, Error *err);

#ifdef __cplusplus
}
#endif
#endif
