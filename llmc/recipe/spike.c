#include "recipe/spike.h"

#include <math.h>

static const double LEAST_DEVIATION = 1e-3; // of the mean

double spike_limit(const SpikeStats *stats, double deviations) {
    if (stats->count < SPIKE_MIN_LOSSES || deviations == 0) return INFINITY;
    return stats->mean + deviations * fmax(sqrt(stats->variance), LEAST_DEVIATION * fabs(stats->mean));
}

void spike_observe(SpikeStats *stats, double loss, double limit) {
    stats->count++;
    const double weight = 1.0 / (double)(stats->count < SPIKE_MEMORY ? stats->count : SPIKE_MEMORY);
    const double difference = fmin(loss, limit) - stats->mean;
    stats->mean += weight * difference;
    stats->variance = (1 - weight) * (stats->variance + weight * difference * difference);
}
