// Loss spikes: a loss far above the running mean of those before it.
#ifndef LLMC_RECIPE_SPIKE_H
#define LLMC_RECIPE_SPIKE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    SPIKE_MEMORY = 100,    // steps over which mean and variance run
    SPIKE_MIN_LOSSES = 30, // before that many are known, nothing is a spike
};

// A resumed run takes over these three numbers. {0}: nothing seen yet.
typedef struct {
    int64_t count;         // losses taken in
    double mean, variance; // exact over the first SPIKE_MEMORY losses, then exponentially weighted
} SpikeStats;

// The largest loss that is no spike: mean + deviations times the standard deviation, which counts as at least 0.1 % of the
// mean. Infinity while fewer than SPIKE_MIN_LOSSES are known, or where deviations is 0.
double spike_limit(const SpikeStats *stats, double deviations);

// Adds a finite loss. A spike counts as the limit, so that one spike does not hide the next, and yet a loss that stays higher
// becomes the new mean in time.
void spike_observe(SpikeStats *stats, double loss, double limit);

#ifdef __cplusplus
}
#endif
#endif
