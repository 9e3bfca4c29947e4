#ifndef LLMC_BASE_CLOCK_H
#define LLMC_BASE_CLOCK_H

#include <time.h>

// Seconds of the monotonic clock: for spans of time, not for the time of day.
static inline double clock_seconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

#endif
