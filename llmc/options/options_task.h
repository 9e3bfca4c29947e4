// What --task asks of other options, and sets of those that were not given.
#ifndef LLMC_OPTIONS_OPTIONS_TASK_H
#define LLMC_OPTIONS_OPTIONS_TASK_H

#include "options/options.h"

#ifdef __cplusplus
extern "C" {
#endif

// Refuses (2) options of other tasks, and what a task cannot be combined with; sets its learning rate and epochs.
int options_settle_task(Options *options, Error *err);

// Refuses (2) --eval-tasks and --sample-every where the model writes no texts.
int options_check_task_texts(const Options *options, Error *err);

// Refuses (2) a task whose loss --eval-only cannot compute.
int options_check_task_evaluates(const Options *options, Error *err);

#ifdef __cplusplus
}
#endif
#endif
