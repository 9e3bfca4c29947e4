// A training run: what train_llama3 does, in the order in which it does it. Every function that can fail is collective:
// called by all ranks, and after an error all of them have the same code and message.
#ifndef LLMC_TRAIN_SETUP_H
#define LLMC_TRAIN_SETUP_H

#include <stdbool.h>

#include "base/error.h"
#include "model/llama3_create.h"
#include "options/options.h"
#include "ranks/team.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Trainer Trainer;

// Locks the output folder, finds the checkpoint to go on from, reads the configuration, opens shards and
// tokenizer, compares all of them with the checkpoint, plans and allocates the model, and prints what it
// found. Nothing in the output folder changes. *out is set on success only. team: all ranks, NULL: one; rank 0 has the
// output folder. Errors: 2, 1.
int trainer_open(Trainer **out, const Options *options, const Team *team, Error *err);

// Refuses (2) options, versions and precisions that are not the same on all ranks. To come first.
int trainer_compare_options(const Team *team, const Options *options, Error *err);

// Weights: drawn from the seed, or read from --init-from, or, with moments, from the checkpoint. Then what is computed of
// them before training: the reference's log-probabilities of --task dpo. Errors: 2, 1.
int trainer_load(Trainer *t, Error *err);

bool trainer_prepares_only(const Trainer *t); // --reference-only: that was all

// Makes the output folder that of this run: options, tokenizer, empty log; or, on resume, the log up to the
// checkpoint. Errors: 2, 1.
int trainer_begin(Trainer *t, Error *err);

// Evaluations and samples that were due after the step of the resumed checkpoint, and left out as a signal to stop had come.
// Errors: as trainer_observe.
int trainer_make_up(Trainer *t, Error *err);

// Whether all steps are done, or a signal to stop came, to any rank.
bool trainer_done(const Trainer *t);

// Whether the checkpoint that is to be resumed has all steps already, and nothing to make up; prints it. The output folder stays as
// it is.
bool trainer_was_done(const Trainer *t);

// One update of the weights, or none where loss or gradient is not finite; and no step at all where a signal to stop came
// to one of many ranks. Errors: 1 and 2 for shards that became unreadable.
int trainer_step(Trainer *t, Error *err);

// What is due after that step: log, progress line, validation loss, sampled text, checkpoint (begun in the
// background; its failure is a warning). Errors: as trainer_step; 1 after too many steps in a row that were not finite.
int trainer_observe(Trainer *t, Error *err);

// Says how the run ended, waits for a checkpoint that is being written, and writes the last one. Errors: 1.
int trainer_save(Trainer *t, Error *err);

Llama3 *trainer_model(const Trainer *t);

void trainer_close(Trainer *t); // NULL is allowed

#ifdef __cplusplus
}
#endif
#endif
