// What a checkpoint keeps of a run beside weights and moments: trainer/state.json.
#ifndef LLMC_TRAIN_TRAIN_STATE_H
#define LLMC_TRAIN_TRAIN_STATE_H

#include <limits.h>
#include <stdint.h>
#include "recipe/spike.h"

// Which run this is: what it computes with and from.
typedef struct {
    uint64_t reference_model;  // of --task dpo: fingerprint of the model that the reference log-probabilities are of
    char base_model[PATH_MAX]; // of adapters: the folder of the model that they adapt; ""
    uint64_t base_fingerprint; // of its weights
    char device[128];
    int threads; // that compute on the cpu target, else 1
} RunIdentity;

typedef struct {
    int64_t step;            // steps done
    int64_t skipped_steps;   // of them without an update
    int64_t data_offset;     // the batch of a step is the loader's step + data_offset
    int64_t token_offset;    // tokens beyond step * tokens_per_step, of a run whose steps had another size
    int64_t average_samples; // in the running mean of the weights, 0: none yet
    int due;                 // LogKinds that were due after this step and are not made, as a signal to stop came before
    SpikeStats spikes;
    RunIdentity identity;
} TrainState;

#endif
