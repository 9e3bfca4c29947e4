// What happens after a step: log line, progress line, checksum, validation loss, scores, sampled text, checkpoint.
#ifndef LLMC_TRAIN_OBSERVE_H
#define LLMC_TRAIN_OBSERVE_H

#include "base/error.h"
#include "train/setup.h"

#ifdef __cplusplus
extern "C" {
#endif

// Called after a step, of which t->report has loss, learning rate and gradient norm. A checkpoint is begun in the background; its
// failure is only a warning. Collective. Errors: 1 and 2 where data became unreadable; 1 after too many steps in a row that were
// not finite.
int observe_step(Trainer *t, Error *err);

// Makes the evaluations and samples that were due after the resumed checkpoint's step but left out because of a signal.
// Collective. Errors: as observe_step.
int observe_what_was_due(Trainer *t, Error *err);

#ifdef __cplusplus
}
#endif
#endif
