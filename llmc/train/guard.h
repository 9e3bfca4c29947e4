// Keeps one bad step from spoiling a run: updates that are not made, loss spikes, checksums of the weights.
#ifndef LLMC_TRAIN_GUARD_H
#define LLMC_TRAIN_GUARD_H

#include <stdbool.h>
#include <stdint.h>

#include "model/llama3_create.h"
#include "train/run.h"
#include "train/saver.h"
#include "train/step_report.h"
#include "train/train_state.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    Run *run;
    TrainState *state;
    Llama3 *model;
    Saver *saver;
    int64_t not_finite_in_a_row; // losses or gradients, up to the last step
    int rollbacks;               // since a checkpoint became whole; rank 0 knows
    int64_t num_whole;           // the saver's count at the last rollback
    uint64_t *checksums;         // [2][tensors]
} Guard;

// Keeps the pointers. Errors: 1 (memory).
int guard_open(Guard *guard, Run *run, TrainState *state, Llama3 *model, Saver *saver, Error *err);
void guard_close(Guard *guard);

// The loss above which the coming step's update is not made.
float guard_max_loss(const Guard *guard);

// Looks at the step just done: counts and logs an update that was not made, and a loss spike. *rolled_back: the state is now
// that of an earlier checkpoint. Collective. Errors: 1 after --max-skipped steps in a row that were not finite, after too many
// rollbacks, and of a rollback itself.
int guard_step(Guard *guard, const StepReport *report, bool *rolled_back, Error *err);

// Logs the weights' checksum. Collective. Errors: 1 where the ranks' weights are not the same.
int guard_checksum(Guard *guard, Error *err);

#ifdef __cplusplus
}
#endif
#endif
