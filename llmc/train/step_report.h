// What a step gave and how long it took, for log, progress line and guards.
#ifndef LLMC_TRAIN_STEP_REPORT_H
#define LLMC_TRAIN_STEP_REPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "model/llama3_create.h"
#include "train/run.h"

#ifdef __cplusplus
extern "C" {
#endif

// Of the last step.
typedef struct {
    int64_t targets; // of all ranks; of comparisons: pairs
    float loss, lr, grad_norm;
    double tokens_per_second;
    LogPreference preference; // of comparisons
    LogRanks communication;   // of many ranks
} StepReport;

// How fast the run is.
typedef struct {
    double began, step_began, after_first_step; // seconds of the monotonic clock
    int64_t first_step;                         // steps that were done when this process began
    int64_t steps;                              // made by this process
    double seconds;                             // that these took
    LogRanks communicated;                      // in all of them
    double flops_per_token, peak_flops;         // 0: not known
    ProgressState shown;                        // what the progress line shows
    int64_t trace_first, trace_last;            // of this process's steps, counted from 1: those that --trace records
    bool traced;                                // the timeline is written
} Pace;

// flops_per_token, peak_flops: 0 where they are not known. Errors: 2 (--trace-steps).
int pace_open(Pace *pace, const Options *options, int64_t first_step, Error *err);

// Before a step's batches are read: the clock, and the timeline where --trace begins. Collective. Errors: 1.
int pace_begin_step(Pace *pace, const Team *team, const Options *options, Error *err);

// After the step, of which report has loss, lr and gradient norm: completes report, and what is shown. steps_done: with it.
void pace_end_step(Pace *pace, StepReport *report, Run *run, int64_t steps_done);

// Writes the timeline if it is begun and not written; a failure is a warning. Collective.
void pace_write_timeline(Pace *pace, Run *run, int64_t step);

// Says how the run ended and what communication cost.
void pace_print_end(const Pace *pace, Run *run, int64_t step);

#ifdef __cplusplus
}
#endif
#endif
