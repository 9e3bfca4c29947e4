// What a checkpoint keeps of a run beside weights and moments: trainer/state.json.
#ifndef LLMC_TRAIN_TRAIN_STATE_H
#define LLMC_TRAIN_TRAIN_STATE_H

#include <stdint.h>

#include "base/error.h"
#include "options/options.h"
#include "recipe/spike.h"
#include "train/resume.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t step;            // steps done
    int64_t skipped_steps;   // of them without an update
    int64_t data_offset;     // the batch of a step is the loader's step + data_offset
    int64_t tokens;          // of all steps
    int64_t average_samples; // in the running mean of the weights, 0: none yet
    int due;                 // LogKinds that were due after this step and are not made, as a signal to stop came before
    SpikeStats spikes;
    RunIdentity identity;
} TrainState;

// Text of state.json, with the options, to be freed by cJSON_free. NULL: out of memory.
char *train_state_text(const TrainState *state, const Options *options);

// Steps, positions and statistics (=) of the checkpoint that is resumed. What is due is what was left out there and these
// options ask for, too. Errors: 2 (a member missing or mistyped).
int train_state_take(TrainState *state, const Resume *resume, const Options *options, Error *err);

// Steps and statistics (=) of an earlier checkpoint of this run. Where the data go on is the caller's. Errors: 2.
int train_state_take_back(TrainState *state, const Resume *from, const Options *options, Error *err);

int train_state_observations(const Options *options); // the LogKinds that the options ask for

#ifdef __cplusplus
}
#endif
#endif
