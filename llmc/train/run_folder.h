// The output folder becomes this run's.
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

// Of a new run: puts aside what the folder holds of another, writes options, tokenizer and what else checkpoints copy, and an
// empty log. Of one that goes on: its checkpoint becomes the newest, its log is cut behind that step. Rank 0's. Errors: 2, 1.
int run_folder_begin(Run *run, const Resume *resume, const TrainState *state, const TrainData *data, const Task *task,
                     Error *err);

#ifdef __cplusplus
}
#endif
#endif
