// What all ranks of a run have to agree on: options, data, weights, the checkpoint to resume, and at each step whether all go
// on. Everything here is collective; after an error all ranks have the same code and message.
#ifndef LLMC_TRAIN_AGREE_H
#define LLMC_TRAIN_AGREE_H

#include "model/llama3_create.h"
#include "train/resume.h"
#include "train/run.h"
#include "train/saver.h"
#include "train/train_data.h"

#ifdef __cplusplus
extern "C" {
#endif

// Refuses (2) options, versions and precisions that are not the same on all ranks. To come first.
int agree_on_options(const Team *team, const Options *options, Error *err);

// Gives the checkpoint that rank 0 chose to all ranks. Errors: 2, 1, each rank for itself.
int agree_on_resume(const Team *team, Resume *resume, Error *err);

// Refuses (2) recipes, data, tokenizers, configurations and checkpoints that are not the same on all ranks.
int agree_on_data(const Run *run, const TrainData *data, const TrainState *state, Error *err);

// Refuses (1) weights that are not the same on all ranks, naming rank and tensor. checksums: [2][tensors], overwritten. when:
// begins the message.
int agree_on_weights(const Team *team, Llama3 *model, uint64_t *checksums, const char *when, Error *err);

// Called once a step's micro-batches are read. *num_targets of this rank becomes that of all ranks; an error of one rank (code)
// or a signal to one becomes that of all; and a checkpoint of which all parts are written gets its name.
int agree_on_step(Run *run, Saver *saver, int code, int64_t *num_targets, Error *err);

#ifdef __cplusplus
}
#endif
#endif
