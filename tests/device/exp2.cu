// 2^x of the CPU (llmc/cpu/exp2.h), of one number and of a thread's elements together: how far off they are, and what they make
// of arguments at the edge.
#include "device/math.h"

#include <stdio.h>

enum { SAMPLES = 1 << 20 };

static float alone(float x) { return fast_exp2(x); }
static float together(float x) {
    float elements[16] = {0.0f, -1.0f, 1.0f};
    elements[15] = x;
    fast_exp2(elements);
    return elements[15];
}

static double worst_of(float (*function)(float), double from, double to) { // in units in the last place
    double worst = 0;
    for (int i = 0; i <= SAMPLES; i++) {
        const float x = (float)(from + (to - from) * i / SAMPLES);
        const double exact = exp2((double)x);
        int exponent;
        frexp(exact, &exponent);
        worst = fmax(worst, fabs(function(x) - exact) / ldexp(1.0, exponent - 24));
    }
    return worst;
}

int main(void) {
    static const float edges[] = {0.0f, -126.0f, -126.1f, -INFINITY, -0x1p127f, 128.0f, 0x1p127f, INFINITY, NAN, -NAN};
    float (*const functions[])(float) = {alone, together};
    for (auto function : functions) {
        printf("ulps %g %g\n", worst_of(function, -126, 127.4), worst_of(function, -0.6, 0.6));
        for (const float x : edges) printf("edge %g\n", (double)function(x));
    }
    return 0;
}
