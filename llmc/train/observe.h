// What happens after a step: log line, progress line, checksum, validation loss, scores, sampled text, checkpoint.
#ifndef LLMC_TRAIN_OBSERVE_H
#define LLMC_TRAIN_OBSERVE_H

#include "base/error.h"
#include "train/setup.h"

#ifdef __cplusplus
extern "C" {
#endif

// Called after a step (t->pending), whose result it waits for: t->report gets its loss and gradient norm. May come when
// the next step's gradients are already being computed, if observe_at_once() allows it. A checkpoint is begun in the
// background; its failure is only a warning. Collective. Errors: 1 and 2 where data became unreadable; 1 after too many
// steps in a row that were not finite.
int observe_step(Trainer *t, Error *err);

// Whether the step just queued has to be observed before the next one begins: an evaluation or a sample is due, which uses
// the model's batches and result; a checkpoint, for which it is measured how long training waits; the step may be taken
// back; a timeline begins or ends; or the device does not compute beside the host. The same on all ranks.
bool observe_at_once(const Trainer *t);

// Observes the last step if that is still to be done. code: an error that has come meanwhile; it is returned rather
// than one of the observation. Collective.
int observe_pending(Trainer *t, int code, Error *err);

// Makes the evaluations and samples that were due after the resumed checkpoint's step but left out because of a signal.
// Collective. Errors: as observe_step.
int observe_what_was_due(Trainer *t, Error *err);

#ifdef __cplusplus
}
#endif
#endif
