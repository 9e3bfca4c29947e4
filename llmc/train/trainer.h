// All parts of a training run. A function takes the parts that it needs; setup, observe and train_llama3.cu see the whole.
#ifndef LLMC_TRAIN_TRAINER_H
#define LLMC_TRAIN_TRAINER_H

#include "eval/tasks.h"
#include "model/llama3_create.h"
#include "recipe/schedule.h"
#include "train/guard.h"
#include "train/resume.h"
#include "train/run.h"
#include "train/sample.h"
#include "train/saver.h"
#include "train/step_report.h"
#include "train/task.h"
#include "train/train_data.h"
#include "train/train_state.h"

typedef struct {
    Run run;
    Resume resume;
    TrainState state;
    TrainData data;
    Task task;
    Llama3 *model;
    Schedule schedule;
    int64_t targets;   // of the batches that were read: of all ranks; pairs, where the data are comparisons
    bool pending;      // the last step is queued, and its result not yet read
    StepReport report; // of that step, or the last one
    Pace pace;
    Guard guard;
    Saver saver;
    Sampling sampling;       // rank 0's
    EvalTasks *eval_tasks;   // rank 0's; NULL without --eval-tasks
    uint64_t conditions_met; // bit i: the stage's condition i, by the evaluations of the last step that had any
} Trainer;

#endif
