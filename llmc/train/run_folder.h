// Makes the output folder this run's.
#ifndef LLMC_TRAIN_RUN_FOLDER_H
#define LLMC_TRAIN_RUN_FOLDER_H

#include "train/resume.h"
#include "train/run.h"
#include "train/task.h"
#include "train/train_data.h"
#include "train/train_state.h"

#ifdef __cplusplus
extern "C" {
#endif

// A new run: sets another run's checkpoints aside, writes options, tokenizer, other files that checkpoints copy, and an empty
// log. A resumed run: makes its checkpoint the newest and cuts the log after its step. Called by rank 0. Errors: 2, 1.
int run_folder_begin(Run *run, const Resume *resume, const TrainState *state, const TrainData *data, const Task *task,
                     Error *err);

#ifdef __cplusplus
}
#endif
#endif
