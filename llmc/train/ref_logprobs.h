// What --task dpo compares with: the log-probability that the reference model, the one that training begins with, gives to
// each answer of a set of comparisons. Computed once, and kept as a file of its own beside the data, so that training
// holds one model and not two.
//
// Rounding depends on where in a row an answer stands. So they are of the packs of the training: then the model's
// log-probabilities are those of its reference to the bit before the first update.
#ifndef LLMC_TRAIN_REF_LOGPROBS_H
#define LLMC_TRAIN_REF_LOGPROBS_H

#include "model/llama3_create.h"
#include "train/resume.h"
#include "train/run.h"
#include "train/train_data.h"

#ifdef __cplusplus
extern "C" {
#endif

// Log-probabilities of the answers in each set, by AnswerSpan's numbers. NULL: not needed, or no such set.
typedef struct {
    float *train, *val;
} RefLogprobs;

// With the weights that training begins with: reads them, or computes and keeps them beside the data, or in the run's folder
// where that cannot be written to. spec: of the training data. identity->reference_model: of a resumed run known, and then
// they are only read; else set (=). Collective. Errors: 2, 1.
int ref_logprobs_prepare(RefLogprobs *ref, Run *run, RunIdentity *identity, const TrainData *data,
                         const LoaderSpec *spec, Llama3 *model, Error *err);

// The model's micro-batch i is one of the set's: its answers' values go where the loss looks for them (llama3_ref_logprobs).
void ref_logprobs_fill(Llama3 *m, int i, const float *set);

void ref_logprobs_free(RefLogprobs *ref);

#ifdef __cplusplus
}
#endif
#endif
