// Functions and divisions of floats as kernels use them: nothing else in a kernel may call the like or divide, because
// --use_fast_math makes all of them approximations on a GPU. There fast_... are the special-function unit's, whose errors
// stand in cpu/fast_math.h; on the CPU they are right to 2 units in the last place. What the kernels' arguments can be is in
// docs/kernels.md. multiply_add is rounded once; in `a * b + c` g++ chooses, and not in all forms of a kernel alike.
#ifndef LLMC_DEVICE_MATH_H
#define LLMC_DEVICE_MATH_H

#include <cuda_runtime.h>
#include <math.h>

#include "device/types.h"
#include "device/vec.h"
#ifdef LLMC_TARGET_CPU
#include "cpu/exp2.h"
#include "cpu/fast_math.h"
#endif

constexpr float LOG2E = 1.4426950408889634f;

#ifdef LLMC_TARGET_CPU

// The logarithm of a positive number that is not denormal, as the compiler can vectorise it; infinity and NaN stay what they
// are. Coefficients of this and the next function: Cephes (S. L. Moshier), logf and sinf.
inline float polynomial_log(float x) {
    const uint32_t bits = __float_as_uint(x), half = __float_as_uint(0.70710678f);
    const float exponent = (float)((int32_t)(bits - half) >> 23);
    const float f = __uint_as_float(bits - ((bits - half) & 0xff800000u)) - 1.0f; // x = 2^exponent (1 + f)
    float p = 7.0376836292e-2f;
    p = p * f - 1.1514610310e-1f;
    p = p * f + 1.1676998740e-1f;
    p = p * f - 1.2420140846e-1f;
    p = p * f + 1.4249322787e-1f;
    p = p * f - 1.6668057665e-1f;
    p = p * f + 2.0000714765e-1f;
    p = p * f - 2.4999993993e-1f;
    p = p * f + 3.3333331174e-1f;
    p = p * f * f * f - 2.12194440e-4f * exponent - 0.5f * f * f; // ln 2 in two parts
    return x < INFINITY ? f + p + 0.693359375f * exponent : x;
}

// sin(x + quadrants pi/2) for x in [-2 pi, 2 pi], likewise. Near its zeros the error is 2^-23.5, not 2 units in the last place.
inline float polynomial_sin(float x, uint32_t quadrants) {
    const float magic = 12582912.0f, shifted = x * 0.63661977f + magic, nearest = shifted - magic;
    const uint32_t quadrant = __float_as_uint(shifted) + quadrants; // but for a multiple of 4
    const float r =
        ((x - nearest * 1.5703125f) - nearest * 4.83751297e-4f) - nearest * 7.54978995e-8f; // pi/2 in three parts
    const float square = r * r;
    const float sine = ((-1.9515295891e-4f * square + 8.3321608736e-3f) * square - 1.6666654611e-1f) * square * r + r;
    const float cosine =
        ((2.4433157118e-5f * square - 1.3887316255e-3f) * square + 4.1666645683e-2f) * square * square - 0.5f * square +
        1.0f;
    const float size = quadrant & 1 ? cosine : sine;
    return __uint_as_float(__float_as_uint(size) ^ (quadrant & 2) << 30);
}

inline float fast_exp2(float x) { return HOST_AS_FAST_MATH(exp2, x) host_exp2(x); }
inline float fast_log2(float x) { return HOST_AS_FAST_MATH(log2, x) log2f(x); }
inline float fast_log(float x) { return HOST_AS_FAST_MATH(log, x) polynomial_log(x); }
inline float fast_sin(float x) { return HOST_AS_FAST_MATH(sin, x) polynomial_sin(x, 0); }
inline float fast_cos(float x) { return HOST_AS_FAST_MATH(cos, x) polynomial_sin(x, 1); }
inline float fast_sqrt(float x) { return HOST_AS_FAST_MATH(sqrt, x) sqrtf(x); }
inline float fast_rsqrt(float x) { return HOST_AS_FAST_MATH(rsqrt, x) 1.0f / sqrtf(x); }
inline float fast_divide(float a, float b) { return HOST_AS_FAST_MATH(divide, a, b) a / b; }
inline float precise_exp(float x) { return expf(x); }
inline float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
inline float precise_divide(float a, float b) { return a / b; }

#else

__device__ __forceinline__ float fast_exp2(float x) { return exp2f(x); } // ex2.approx.ftz under --use_fast_math
__device__ __forceinline__ float fast_log2(float x) { return __log2f(x); }
__device__ __forceinline__ float fast_log(float x) { return __logf(x); }
__device__ __forceinline__ float fast_sin(float x) { return __sinf(x); }
__device__ __forceinline__ float fast_cos(float x) { return __cosf(x); }
__device__ __forceinline__ float fast_sqrt(float x) { return sqrtf(x); } // sqrt.approx.ftz, likewise
__device__ __forceinline__ float fast_rsqrt(float x) { return rsqrtf(x); }
__device__ __forceinline__ float fast_divide(float a, float b) { return __fdividef(a, b); }
__device__ __forceinline__ float precise_divide(float a, float b) { return __fdiv_rn(a, b); } // correctly rounded
// by way of double, which --use_fast_math leaves as it is: the error of __expf grows with |x|, to 1e-5 at -80
__device__ __forceinline__ float precise_exp(float x) { return (float)exp((double)x); }
__device__ __forceinline__ float multiply_add(float a, float b, float c) { return a * b + c; } // nvcc makes it one

#endif

// log(1 + x). --use_fast_math has no approximation of it.
__device__ __forceinline__ float precise_log1p(float x) { return log1pf(x); }
__device__ __forceinline__ float fast_exp(float x) { return fast_exp2(x * LOG2E); }

// x[i] = 2^x[i]
template <int N> __device__ __forceinline__ void fast_exp2(float (&x)[N]) {
#if defined(LLMC_TARGET_CPU) && defined(__AVX512F__) && !defined(HOST_FAST_MATH)
    if constexpr (N % 16 == 0) {
        for (int i = 0; i < N; i += 16) host_exp2_16(x + i);
        return;
    }
#endif
    EACH_ELEMENT
    for (int i = 0; i < N; i++) x[i] = fast_exp2(x[i]);
}

// Of a number e^-x. In the fp32 build the division is exact: for large x the gradient of SwiGLU is x (1 - sigmoid), where 2 ulp
// would show.
__device__ __forceinline__ float sigmoid_of_exp(float e) {
    return sizeof(floatX) == 4 ? precise_divide(1.0f, 1.0f + e) : fast_divide(1.0f, 1.0f + e);
}

// s[i] = sigmoid of x[i]
template <int N> __device__ __forceinline__ void sigmoid(float (&s)[N], const float (&x)[N]) {
#ifdef LLMC_TARGET_CPU
    EACH_ELEMENT
    for (int i = 0; i < N; i++) s[i] = -x[i] * LOG2E;
    fast_exp2(s);
    EACH_ELEMENT
    for (int i = 0; i < N; i++) s[i] = sigmoid_of_exp(s[i]);
#else
    EACH_ELEMENT
    for (int i = 0; i < N; i++) s[i] = sigmoid_of_exp(fast_exp(-x[i]));
#endif
}

#endif
