// Functions of device/math.h with the errors of a GPU: for each, how far it is off over its arguments, in parts of the error
// that llmc/cpu/fast_math.h states, and what it makes of arguments at the edge.
#include "device/launch.h"
#include "device/math.h"

#include <stdio.h>

enum { SAMPLES = 20000 };

static double worst_of(float (*function)(float), double (*exact)(double), double from, double to, double absolute,
                       double relative, double ulps) {
    double worst = 0;
    for (int i = 0; i <= SAMPLES; i++) {
        const float x = (float)(from + (to - from) * i / SAMPLES);
        const double want = exact(x), allowed = absolute + relative * fabs(want) + ulps * host_ulp(want);
        worst = fmax(worst, fabs(function(x) - want) / allowed);
    }
    return worst;
}

static double reciprocal(double x) { return 1.0 / x; }
static double reciprocal_root(double x) { return 1.0 / sqrt(x); }
static float divide_one(float x) { return fast_divide(1.0f, x); }

static void print_errors() {
#define WORST(name, function, exact, from, to, absolute, relative, ulps)                                               \
    printf("error %s %g\n", name, worst_of(function, exact, from, to, absolute, relative, ulps))
    WORST("exp2", fast_exp2, exp2, -125, 127, 0, 0, 2);
    WORST("log2_near_1", fast_log2, log2, 0.51, 1.99, 0x1p-22, 0, 0);
    WORST("log2", fast_log2, log2, 2.01, 1e6, 0, 0x1p-22, 0);
    WORST("log_near_1", fast_log, log, 0.5, 2, exp2(-21.41), 0, 0);
    WORST("log", fast_log, log, 2.01, 1e6, 0, 0, 3);
    WORST("sqrt", fast_sqrt, sqrt, 1e-30, 1e6, 0, 0x1p-23, 0);
    WORST("rsqrt", fast_rsqrt, reciprocal_root, 1e-3, 1e6, 0, 0, 2);
    WORST("divide", divide_one, reciprocal, 1e-3, 1e6, 0, 0, 2);
    WORST("sin", fast_sin, sin, -3.14, 3.14, exp2(-21.41), 0, 0);
    WORST("cos", fast_cos, cos, -3.14, 3.14, exp2(-21.19), 0, 0);
    WORST("cos_beyond", fast_cos, cos, 3.15, 6.28, exp2(-20.5), 0, 0);
}

// The kernel's own arithmetic flushes, too.
static __global__ void edges_kernel(const float *x) {
    const float tiny = x[0], huge = x[1];
    printf("edge flush %g %g\n", (double)(tiny * 0.5f), (double)(x[2] + x[2]));
    printf("edge exp2 %g %g %g %g\n", (double)fast_exp2(0.0f), (double)fast_exp2(x[2]), (double)fast_exp2(128.5f),
           (double)fast_exp2(-126.5f));
    printf("edge divide %g %g %g\n", (double)fast_divide(1.0f, huge), (double)fast_divide(INFINITY, huge),
           (double)fast_divide(1.0f, x[2]));
    printf("edge log %g %g\n", (double)fast_log(x[2]), (double)fast_log(-1.0f));
    printf("edge rsqrt %g %g\n", (double)fast_rsqrt(x[2]), (double)fast_rsqrt(INFINITY));
    printf("edge sin %g\n", (double)fast_sin(7.0f));
}

int main(void) {
    static const float x[3] = {0x1.8p-126f, 0x1p127f, 0x1p-130f};
    print_errors();
    launch_pointwise(edges_kernel, 1, 1, nullptr, x);
    printf("edge after %g\n", (double)(x[2] + x[2]));
    return 0;
}
