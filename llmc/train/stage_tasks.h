// Which evaluations a recipe's stage makes, and whether it ends by them. Without --recipe all of --eval-tasks are made where
// they are due, and nothing ends.
#ifndef LLMC_TRAIN_STAGE_TASKS_H
#define LLMC_TRAIN_STAGE_TASKS_H

#include "train/trainer.h"

#ifdef __cplusplus
extern "C" {
#endif

// Refuses (2) what the recipe's stages evaluate or wait for and nothing is there for. Of evaluations rank 0 alone knows.
int stage_tasks_check(const Trainer *t, Error *err);

// The LogKinds that are due after the last step, to which evaluations are added where the stage may end.
int stage_tasks_due(const Trainer *t, int due);

bool stage_tasks_include(const Trainer *t, const char *name); // whether that evaluation is one of those that are due

void stage_tasks_note(Trainer *t, const char *name, const EvalResult *result); // for what follows

// Ends the stage with the last step if all conditions of its ends_when hold, by what rank 0 has noted; the run is then shorter.
// Returns whether it did. Collective.
bool stage_tasks_end_stage(Trainer *t);

#ifdef __cplusplus
}
#endif
#endif
