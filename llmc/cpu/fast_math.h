// What nvcc's --use_fast_math makes of functions, as far off as NVIDIA allows: for tests, in builds with sanitizers. With a
// seed set (LLMC_HOST_FAST_MATH=N, or host_set_fast_math), each result is off by up to the error stated for it, in a
// direction that depends on the seed and the argument alone; and kernels flush numbers below 2^-126 to zero.
//
// PTX: Parallel Thread Execution ISA, "Floating Point Instructions", the instruction that nvcc emits. Guide: CUDA C++
// Programming Guide, "Mathematical Functions", where it is stricter or PTX says nothing. An ulp is one of the result.
//
//   2^x         ex2.approx.ftz    2 ulp; 1 at +-0 (PTX)
//   log2        lg2.approx.ftz    2^-22, absolute in (0.5, 2), else of the result (PTX)
//   log         __logf            2^-21.41 absolute in [0.5, 2], else 3 ulp (Guide)
//   sqrt        sqrt.approx.ftz   2^-23 of the result (PTX)
//   1 / sqrt    rsqrt.approx.ftz  2 ulp (Guide)
//   a / b       div.approx.ftz    2 ulp for |b| in [2^-126, 2^126]; beyond that 0, NaN if a is infinite (PTX)
//   sin, cos    sin.approx.ftz    2^-21.41 and 2^-21.19 absolute in [-pi, pi] (Guide), 2^-20.5 in [-2 pi, 2 pi] (PTX);
//                                 what lies beyond no kernel may ask for: NaN
#ifndef LLMC_CPU_FAST_MATH_H
#define LLMC_CPU_FAST_MATH_H

#include <stdint.h>

// 0: functions are the CPU's. False in a build that cannot do it.
extern "C" bool host_set_fast_math(uint64_t seed);

#if defined(__SANITIZE_ADDRESS__) && defined(__SSE__)
#define HOST_FAST_MATH 1

#include <float.h>
#include <math.h>
#include <string.h>

extern uint64_t host_fast_math_seed;

inline float host_flush(float x) { return fabsf(x) < FLT_MIN ? copysignf(0.0f, x) : x; }

inline double host_ulp(double result) {
    int exponent;
    frexp(fabs(result) < FLT_MIN ? FLT_MIN : result, &exponent);
    return ldexp(1.0, exponent - FLT_MANT_DIG);
}

// `exact`, off by a part of `error` between -1 and 1, both of which are likely.
inline float host_off_by(double exact, double error, double argument) {
    uint64_t bits;
    memcpy(&bits, &argument, sizeof bits);
    bits = (bits ^ host_fast_math_seed * 0x9E3779B97F4A7C15u) * 0xBF58476D1CE4E5B9u;
    bits = (bits ^ bits >> 29) * 0x94D049BB133111EBu;
    bits ^= bits >> 32;
    const double share = bits % 4 == 0 ? -1.0 : bits % 4 == 1 ? 1.0 : (double)(int32_t)(bits >> 3) * 0x1p-31;
    return host_flush((float)(exact + share * error));
}

inline float host_fast_exp2(float argument) {
    const float x = host_flush(argument);
    if (!(x != 0.0f && fabsf(x) <= 1000.0f)) return x == 0.0f ? 1.0f : exp2f(x);
    const double exact = exp2((double)x);
    return host_off_by(exact, 2.0 * host_ulp(exact), x);
}
inline float host_fast_log2(float argument) {
    const float x = host_flush(argument);
    if (!(x > 0.0f && x < INFINITY)) return log2f(x);
    const double exact = log2((double)x);
    return host_off_by(exact, 0x1p-22 * (x > 0.5f && x < 2.0f ? 1.0 : fabs(exact)), x);
}
inline float host_fast_log(float argument) {
    const float x = host_flush(argument);
    if (!(x > 0.0f && x < INFINITY)) return logf(x);
    const double exact = log((double)x);
    return host_off_by(exact, x >= 0.5f && x <= 2.0f ? exp2(-21.41) : 3.0 * host_ulp(exact), x);
}
inline float host_fast_sqrt(float argument) {
    const float x = host_flush(argument);
    if (!(x > 0.0f && x < INFINITY)) return sqrtf(x);
    const double exact = sqrt((double)x);
    return host_off_by(exact, 0x1p-23 * exact, x);
}
inline float host_fast_rsqrt(float argument) {
    const float x = host_flush(argument);
    if (!(x > 0.0f && x < INFINITY)) return 1.0f / sqrtf(x);
    const double exact = 1.0 / sqrt((double)x);
    return host_off_by(exact, 2.0 * host_ulp(exact), x);
}
inline float host_fast_divide(float numerator, float denominator) {
    const float a = host_flush(numerator), b = host_flush(denominator);
    if (fabsf(b) > 0x1p126f) return a * copysignf(0.0f, b);
    if (!(b != 0.0f && fabsf(a) < INFINITY && fabsf(b) <= 0x1p126f)) return a / b;
    const double exact = (double)a / b;
    return host_off_by(exact, 2.0 * host_ulp(exact), exact);
}
inline float host_fast_sin(float x) {
    const float size = fabsf(x);
    if (!(size <= 6.2831855f)) return NAN;
    return size == 0.0f ? x : host_off_by(sin((double)x), size <= 3.1415927f ? exp2(-21.41) : exp2(-20.5), x);
}
inline float host_fast_cos(float x) {
    const float size = fabsf(x);
    if (!(size <= 6.2831855f)) return NAN;
    return size == 0.0f ? 1.0f : host_off_by(cos((double)x), size <= 3.1415927f ? exp2(-21.19) : exp2(-20.5), x);
}

#ifdef __x86_64__
enum { HOST_FLUSH = 0x8040 }; // of MXCSR: flush to zero, denormals are zero
inline unsigned host_float_control() { return __builtin_ia32_stmxcsr(); }
inline void host_set_float_control(unsigned control) { __builtin_ia32_ldmxcsr(control); }
#else
enum { HOST_FLUSH = 1 << 24 }; // of FPCR: FZ
inline unsigned host_float_control() { return __builtin_aarch64_get_fpcr(); }
inline void host_set_float_control(unsigned control) { __builtin_aarch64_set_fpcr(control); }
#endif

// While it lives, the thread (a fiber has its own) reads and writes numbers below 2^-126 as zero.
struct HostFlushing {
    const unsigned before = host_float_control();
    HostFlushing() {
        if (host_fast_math_seed) host_set_float_control(before | HOST_FLUSH);
    }
    ~HostFlushing() { host_set_float_control(before); }
};

// return HOST_AS_FAST_MATH(log, x) logf(x);
#define HOST_AS_FAST_MATH(function, ...) host_fast_math_seed ? host_fast_##function(__VA_ARGS__):

#else

struct HostFlushing {
    ~HostFlushing() {} // it is used
};
#define HOST_AS_FAST_MATH(function, ...)

#endif
#endif
