// What is due after a step: log line, progress line, validation loss, scores, sampled text, checksum, checkpoint.
#ifndef LLMC_TRAIN_OBSERVE_H
#define LLMC_TRAIN_OBSERVE_H

#include "base/error.h"
#include "train/setup.h"

#ifdef __cplusplus
extern "C" {
#endif

// After a step that t->report describes. A checkpoint is begun in the background; its failure is a warning. Collective. Errors:
// those of validation and evaluation files that became unreadable; 1 after too many steps in a row that were not finite.
int observe_step(Trainer *t, Error *err);

// Evaluations and samples that were due after the step of the resumed checkpoint, and left out as a signal to stop had come.
// Collective. Errors: as observe_step.
int observe_what_was_due(Trainer *t, Error *err);

#ifdef __cplusplus
}
#endif
#endif
