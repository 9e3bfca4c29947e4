// exp and its relatives as kernels use them. On a GPU they are the special-function unit's; on the CPU a polynomial that
// the compiler can vectorise, right to 2 units in the last place of a float.
#ifndef LLMC_DEVICE_MATH_H
#define LLMC_DEVICE_MATH_H

#include <cuda_runtime.h>
#include <math.h>

constexpr float LOG2E = 1.4426950408889634f;

#ifdef LLMC_TARGET_CPU

// 2^x. Below -126 the result is 0 (no subnormals), -infinity included; above 127.49 it saturates; NaN stays NaN.
inline float fast_exp2(float x) {
    float clamped = x < -126.0f ? -126.0f : x;
    clamped = clamped > 127.49f ? 127.49f : clamped;
    // round to the nearest integer by pushing the fraction out of the mantissa
    const float magic = 12582912.0f; // 1.5 * 2^23
    float shifted = clamped + magic;
    float f = clamped - (shifted - magic);                                // in [-0.5, 0.5]
    uint32_t integer = __float_as_uint(shifted) - __float_as_uint(magic); // -126 to 127
    float scale = __uint_as_float((integer + 127) << 23);
    // 2^f: Taylor series of exp(f ln 2), each coefficient (ln 2)^n / n!; the term of f^8 is below 2^-29
    float p = 1.5252733804e-5f;
    p = p * f + 1.5403530394e-4f;
    p = p * f + 1.3333558146e-3f;
    p = p * f + 9.6181291076e-3f;
    p = p * f + 5.5504108665e-2f;
    p = p * f + 2.4022650696e-1f;
    p = p * f + 6.9314718056e-1f;
    p = p * f + 1.0f;
    return x < -126.0f ? 0.0f : p * scale;
}
inline float fast_rsqrt(float x) { return 1.0f / sqrtf(x); }
inline float fast_divide(float a, float b) { return a / b; }

#else

__device__ __forceinline__ float fast_exp2(float x) { return exp2f(x); } // ex2.approx.ftz under --use_fast_math
__device__ __forceinline__ float fast_rsqrt(float x) { return rsqrtf(x); }
__device__ __forceinline__ float fast_divide(float a, float b) { return __fdividef(a, b); }

#endif

__device__ __forceinline__ float fast_exp(float x) { return fast_exp2(x * LOG2E); }
__device__ __forceinline__ float sigmoid(float x) { return fast_divide(1.0f, 1.0f + fast_exp(-x)); }

#endif
