// What keeps a run from being spoilt by one step: updates that are not made, loss spikes, checksums of the weights.
#ifndef LLMC_TRAIN_GUARD_H
#define LLMC_TRAIN_GUARD_H

#include <stdint.h>

typedef struct {
    int64_t not_finite_in_a_row; // steps up to the last one
    int rollbacks;               // since the last checkpoint was written
    uint64_t *checksums;         // [2][tensors] of many ranks
} Guard;

#endif
