// What a model says of all endings of an evaluation, by its forward pass alone: their log-likelihoods, and whether greedy
// decoding would write them.
#ifndef LLMC_EVAL_SCORE_H
#define LLMC_EVAL_SCORE_H

#include <stdbool.h>

#include "eval/items.h"
#include "eval/pack.h"
#include "model/llama3_create.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef bool (*EvalStop)(void); // called before each batch; true: stop

// loglikelihoods [num_endings] =: the sum over the ending's tokens, in nats. exact [num_endings] = whether each of its tokens
// is the likeliest after those before it, which is when greedy decoding writes it; NULL: not wanted. The model has B rows
// of packing->T tokens; its host batch 0 and its activations are overwritten, its gradients are not. stop may be
// NULL; once it returns true, the values are incomplete. Errors: 1 (no memory).
int eval_score(double *loglikelihoods, bool *exact, Llama3 *m, int B, const EvalSet *set, const EvalPacking *packing,
               EvalStop stop, Error *err);

#ifdef __cplusplus
}
#endif
#endif
