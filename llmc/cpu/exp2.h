// 2^x on the CPU, off by 1.2 units in the last place at most. Below -126 it is 0 (no subnormals), from 128 on infinite (by
// host_exp2 from 127.5 on); NaN stays NaN.
#ifndef LLMC_CPU_EXP2_H
#define LLMC_CPU_EXP2_H

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

// 2^f for f in [-0.5, 0.5], by Horner's rule: the coefficients whose largest relative error is least, 2^-28.9, with 2^0 = 1
// exactly.
constexpr float EXP2_COEFFICIENTS[] = {
    1.5353361960e-4f, 1.3398875017e-3f, 9.6184369177e-3f, 5.5503323674e-2f, 2.4022647738e-1f, 6.9314718246e-1f, 1.0f};

// For loops that the compiler can vectorise. What lies beyond the limits is chosen at the end, so that no lane works with
// subnormals.
inline float host_exp2(float x) {
    // round to the nearest integer by pushing the fraction out of the mantissa, whose low bits are then the exponent of 2^n
    const float magic = 12582912.0f + 127.0f; // 1.5 * 2^23
    const float shifted = x + magic;
    const float f = x - (shifted - magic);
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits <<= 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    float p = EXP2_COEFFICIENTS[0];
    for (int k = 1; k < 7; k++) p = p * f + EXP2_COEFFICIENTS[k];
    return x < -126.0f ? 0.0f : x < 128.0f ? p * power : x + INFINITY;
}

#ifdef __AVX512F__
// Of 16, with the instructions that AVX-512 has for it: the same bits, but for fractions of exactly a half.
inline void host_exp2_16(float *x) {
    const __m512 argument = _mm512_loadu_ps(x);
    const __m512 n = _mm512_maskz_roundscale_ps(0xffff, argument, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 f = _mm512_sub_ps(argument, n);
    __m512 p = _mm512_set1_ps(EXP2_COEFFICIENTS[0]);
    for (int k = 1; k < 7; k++) p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(EXP2_COEFFICIENTS[k]));
    const __mmask16 normal = _mm512_cmp_ps_mask(argument, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);
    _mm512_storeu_ps(x, _mm512_maskz_scalef_ps(normal, p, n));
}
#endif
#endif
