// What trainer/state.json of a checkpoint holds: all that a run needs to go on, besides weights and moments.
#ifndef LLMC_TRAIN_TRAIN_STATE_H
#define LLMC_TRAIN_TRAIN_STATE_H

#include <stdint.h>

#include "base/error.h"
#include "options/options.h"
#include "recipe/spike.h"
#include "train/resume.h"
#include "train/stage_place.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t step;            // steps done
    int64_t skipped_steps;   // of them without an update
    int64_t data_offset;     // a step's batch is that of the loader's step + data_offset
    int64_t tokens;          // of all steps
    int64_t average_samples; // in the average of the weights; 0: none yet
    int due;                 // LogKinds that were due after this step but prevented by a signal to stop
    SpikeStats spikes;
    StagePlace place; // of a run with a recipe
    RunIdentity identity;
} TrainState;

// Text of state.json, with the options, to be freed by cJSON_free. NULL: out of memory.
char *train_state_text(const TrainState *state, const Options *options);

// Takes steps, position in the data and statistics (=) of the resumed checkpoint. Due is what was left out there and the options
// still ask for. Errors: 2 (a member missing or mistyped).
int train_state_take(TrainState *state, const Resume *resume, const Options *options, Error *err);

// Takes steps and statistics (=) of an earlier checkpoint of this run; data_offset is the caller's to set. Errors: 2.
int train_state_take_back(TrainState *state, const Resume *from, const Options *options, Error *err);

int train_state_observations(const Options *options); // the LogKinds that the options ask for

#ifdef __cplusplus
}
#endif
#endif
