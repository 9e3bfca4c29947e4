// The results of a step and how long it took, for log, progress line and guards.
#ifndef LLMC_TRAIN_STEP_REPORT_H
#define LLMC_TRAIN_STEP_REPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "train/run.h"

#ifdef __cplusplus
extern "C" {
#endif

// The last step's.
typedef struct {
    int64_t targets; // as Trainer.targets
    float loss, lr, grad_norm;
    double tokens_per_second;
    LogPreference preference; // where the data are comparisons
    LogRanks communication;   // where there are many ranks
} StepReport;

// How fast the run is.
typedef struct {
    double began, step_began, after_first_step; // seconds of the monotonic clock; a step begins when the last has ended
    int64_t first_step;                         // how many were done when this process began
    int64_t steps;                              // that ended in this process
    double seconds;                             // that these steps took
    LogRanks communicated;                      // in all of these steps
    double flops_per_token, peak_flops;         // 0: not known
    double work, later_work;         // FLOPs: of the steps that ended here but the first, of the stages to come
    ProgressState shown;             // what the progress line shows
    int64_t trace_first, trace_last; // the steps that --trace records, counted from this process's first as 1
    bool traced;                     // the timeline is written
} Pace;

// first_step: how many steps were done before. flops_per_token and peak_flops stay 0, not known. Errors: 2 (--trace-steps).
int pace_open(Pace *pace, const Options *options, int64_t first_step, Error *err);

// Called before a step's batches are read: starts the clock, and the timeline where --trace begins. pending: the step
// before has not ended, and the clock starts when it does. Collective. Errors: 1.
int pace_begin_step(Pace *pace, const Team *team, const Options *options, bool pending, Error *err);

// Whether the next step to end is the last before a timeline, or the last in it.
bool pace_traces(const Pace *pace);

// Called after the step, of which report has loss, lr and grad_norm: sets its times (=) and updates what is shown. steps_done
// includes the step. Collective where a timeline ends.
void pace_end_step(Pace *pace, StepReport *report, Run *run, int64_t steps_done);

// Writes the timeline if it was begun and is not yet written; a failure is a warning. Collective.
void pace_write_timeline(Pace *pace, Run *run, int64_t step);

// Prints how the run ended and what communication cost.
void pace_print_end(const Pace *pace, Run *run, int64_t step);

#ifdef __cplusplus
}
#endif
#endif
