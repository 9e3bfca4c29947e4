// A copy in host memory of what a checkpoint is written from: this shard's master weights and moments. A single shard does not
// copy trained parameters, which are the master weights, rounded, in every build; of several shards each copies the
// parameters that its part of a checkpoint holds (parts.h). Frozen parameters are copied the first time only.
#ifndef LLMC_CHECKPOINT_SNAPSHOT_H
#define LLMC_CHECKPOINT_SNAPSHOT_H

#include "model/llama3_weights.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Snapshot Snapshot;

// Allocates host memory (page-locked on a GPU) and touches it, so that taking a snapshot never waits for pages. m:
// made for training. Errors: 1 (memory: bytes needed and free).
int snapshot_create(Snapshot **out, Llama3 *m, Error *err);

// Waits for the device and copies (=); afterwards the model may change.
void snapshot_take(Snapshot *snapshot, Llama3 *m);

// The shard's flat array [num_shard_elements] (parameter_piece).
const float *snapshot_array(const Snapshot *snapshot, TrainingArray array);

// The elements of that tensor; NULL: not copied.
const floatX *snapshot_parameter(const Snapshot *snapshot, int tensor);

void snapshot_destroy(Snapshot *snapshot); // NULL is allowed

#ifdef __cplusplus
}
#endif
#endif
