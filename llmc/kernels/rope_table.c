// The table of rotations, made once on the host in double precision.
#include <math.h>

#include "kernels/rope.h"

static const double PI = 3.14159265358979323846;

// Llama 3.1: low frequencies are divided by factor, high ones kept, those between blended.
static double scaled_frequency(double frequency, const RopeScaling *scaling) {
    double periods = scaling->original_max_position * frequency / (2 * PI); // turns within the original context
    if (periods < scaling->low_freq_factor) return frequency / scaling->factor;
    if (periods > scaling->high_freq_factor) return frequency;
    double kept = (periods - scaling->low_freq_factor) / (scaling->high_freq_factor - scaling->low_freq_factor);
    return (1 - kept) * frequency / scaling->factor + kept * frequency;
}

void rope_table(float *table, int T, int HD, double theta, const RopeScaling *scaling) {
    for (int i = 0; i < HD / 2; i++) {
        double frequency = pow(theta, -2.0 * i / HD);
        if (scaling) frequency = scaled_frequency(frequency, scaling);
        for (int t = 0; t < T; t++) {
            float *entry = table + ((size_t)t * (size_t)(HD / 2) + (size_t)i) * 2;
            entry[0] = (float)cos(t * frequency);
            entry[1] = (float)sin(t * frequency);
        }
    }
}
