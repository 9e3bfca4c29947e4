// Reference log-probabilities of --task dpo: the log-probability that the reference model, which is the model that training
// begins with, gives to each answer of a set of comparisons. They are computed once and kept in a file beside the data, so that
// training holds one model and not two.
//
// Rounding depends on where in a row an answer stands. So they are computed in the packs of the training: before the first update
// the model's own log-probabilities are then the same to the bit.
#ifndef LLMC_TRAIN_REF_LOGPROBS_H
#define LLMC_TRAIN_REF_LOGPROBS_H

#include "model/llama3_create.h"
#include "train/resume.h"
#include "train/run.h"
#include "train/train_data.h"

#ifdef __cplusplus
extern "C" {
#endif

// For each set, [answers] in the order of their numbers in the set (Batch.answer_numbers). NULL: not needed, or no such set.
typedef struct {
    float *train, *val;
} RefLogprobs;

// Reads *ref (=) from files beside the data or in the run's folder. A new run computes what is missing, with the weights that it
// begins with, keeps it there, and sets identity->reference_model (=); a resumed run, where that is set, only reads. spec: of the
// training data. Collective. Errors: 2, 1.
int ref_logprobs_prepare(RefLogprobs *ref, Run *run, RunIdentity *identity, const TrainData *data,
                         const LoaderSpec *spec, Llama3 *model, Error *err);

// Sets llama3_ref_logprobs (=) of micro-batch i, which was fetched from that set.
void ref_logprobs_fill(Llama3 *m, int i, const float *set);

void ref_logprobs_free(RefLogprobs *ref);

#ifdef __cplusplus
}
#endif
#endif
