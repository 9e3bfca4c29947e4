// Sets a training run up and closes it: train_setup, train_load, train_begin, then the loop of train_llama3.cu, then train_close.
// All ranks call these functions; after an error all of them have the same code and message.
#ifndef LLMC_TRAIN_SETUP_H
#define LLMC_TRAIN_SETUP_H

#include "train/trainer.h"

#ifdef __cplusplus
extern "C" {
#endif

// Locks the output folder, finds the checkpoint to resume, reads the configuration, opens data and tokenizer, compares all of
// them with the checkpoint, allocates the model, and prints a summary. Changes nothing in the output folder.
// *out is set on success only. team: all ranks, NULL: one; rank 0 has the output folder. Errors: 2, 1.
int train_setup(Trainer **out, const Options *options, const Team *team, Error *err);

// Whether the checkpoint to resume has all steps already and no observation is due; then prints that. The output folder stays
// as it is.
bool train_was_done(const Trainer *t);

// Draws the weights from the seed, or reads them from --init-from or, with moments, from the checkpoint. Then computes what the
// task needs of them before training. Errors: 2, 1.
int train_load(Trainer *t, Error *err);

// Makes the output folder this run's: writes options, tokenizer and an empty log, or cuts the log after the resumed step. Errors:
// 2, 1.
int train_begin(Trainer *t, Error *err);

Llama3 *train_model(const Trainer *t); // for tests, which know no struct

void train_close(Trainer *t); // NULL is allowed

#ifdef __cplusplus
}
#endif
#endif
