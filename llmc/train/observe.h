// The step as log and terminal tell it, and what else is due after it.
#ifndef LLMC_TRAIN_OBSERVE_H
#define LLMC_TRAIN_OBSERVE_H

#include <stdbool.h>
#include <stdint.h>
#include "run/log.h"

// What the last step gave.
typedef struct {
    double tokens_per_second;
    LogPreference preference; // of comparisons
    LogRanks communication;   // of many ranks
} StepReport;

// How fast the run is.
typedef struct {
    double began, after_first_step;     // seconds of the monotonic clock
    int64_t steps;                      // made by this process
    double seconds;                     // that these took
    LogRanks communicated;              // in all of them
    double flops_per_token, peak_flops; // 0: not known
} Pace;

// The steps that --trace records, counted from this process's first as 1.
typedef struct {
    int64_t first, last;
    bool written;
} Timeline;

#endif
