// A training run is set up, in this order: train_setup, train_load, train_begin; then the loop of train_llama3.cu; train_close.
// All of these are called by all ranks, and after an error all of them have the same code and message.
#ifndef LLMC_TRAIN_SETUP_H
#define LLMC_TRAIN_SETUP_H

#include "train/trainer.h"

#ifdef __cplusplus
extern "C" {
#endif

// Locks the output folder, finds the checkpoint to go on from, reads the configuration, opens data and tokenizer, compares all
// of them with the checkpoint, plans and allocates the model, and prints what it found. Nothing in the output folder changes.
// *out is set on success only. team: all ranks, NULL: one; rank 0 has the output folder. Errors: 2, 1.
int train_setup(Trainer **out, const Options *options, const Team *team, Error *err);

// Whether the checkpoint that is to be resumed has all steps already, and nothing is due; prints it. The output folder stays as
// it is.
bool train_was_done(const Trainer *t);

// Weights: drawn from the seed, or read from --init-from, or, with moments, from the checkpoint. Then what the task computes of
// them before training. Errors: 2, 1.
int train_load(Trainer *t, Error *err);

// Makes the output folder that of this run: options, tokenizer, empty log; or, on resume, the log up to the checkpoint. Errors:
// 2, 1.
int train_begin(Trainer *t, Error *err);

Llama3 *train_model(const Trainer *t);

void train_close(Trainer *t); // NULL is allowed

#ifdef __cplusplus
}
#endif
#endif
