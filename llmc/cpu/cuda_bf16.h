// The CPU's stand-in for <cuda_bf16.h>: bfloat16, rounded to nearest even.
#ifndef LLMC_CPU_CUDA_BF16_H
#define LLMC_CPU_CUDA_BF16_H

#include "cuda_runtime.h"
#ifdef __AVX512F__
#include <immintrin.h>
#endif

struct alignas(2) __nv_bfloat16 {
    uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float((uint32_t)x.bits << 16); }

// Without a branch, so that the compiler can vectorise it.
inline __nv_bfloat16 __float2bfloat16(float x) {
    uint32_t bits = __float_as_uint(x);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    uint32_t is_nan = (uint32_t)((int32_t)(0x7f800000 - (bits & 0x7fffffff)) >> 31); // all ones, or 0
    return {(uint16_t)((rounded & ~is_nan) | (0x7fff & is_nan))};
}

// Floats in the longest vector register that the kernels are compiled for. Of a longer vector type compilers keep values in memory.
#ifdef __AVX512F__
enum { HOST_LANES = 16 };
#elif defined(__AVX__)
enum { HOST_LANES = 8 };
#else
enum { HOST_LANES = 4 };
#endif

// N (a power of two) at once, as SIMD instructions: compilers make less of the loop, because it mixes widths.
template <int N> struct HostVectors {
    typedef uint16_t Half __attribute__((vector_size(2 * N)));
    typedef uint32_t Full __attribute__((vector_size(4 * N)));
};
template <int N> __forceinline__ void host_bf16_to_float(float *to, const __nv_bfloat16 *from) {
    if constexpr (N > HOST_LANES) {
        host_bf16_to_float<N / 2>(to, from);
        return host_bf16_to_float<N / 2>(to + N / 2, from + N / 2);
    }
#ifdef __AVX512F__
    if constexpr (N == 16) {
        const __m256i bits = _mm256_loadu_si256((const __m256i *)from);
        const __m512i wide = _mm512_maskz_cvtepu16_epi32(0xffff, bits);
        return _mm512_storeu_si512(to, _mm512_maskz_slli_epi32(0xffff, wide, 16));
    }
#endif
    typename HostVectors<N>::Half bits;
    __builtin_memcpy(&bits, from, sizeof bits);
    typename HostVectors<N>::Full wide = __builtin_convertvector(bits, typename HostVectors<N>::Full) << 16;
    __builtin_memcpy(to, &wide, sizeof wide);
}
template <int N> __forceinline__ void host_float_to_bf16(__nv_bfloat16 *to, const float *from) {
    if constexpr (N > HOST_LANES) {
        host_float_to_bf16<N / 2>(to, from);
        return host_float_to_bf16<N / 2>(to + N / 2, from + N / 2);
    }
    typename HostVectors<N>::Full bits;
    __builtin_memcpy(&bits, from, sizeof bits);
    typename HostVectors<N>::Full rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    rounded = (bits & 0x7fffffff) > 0x7f800000 ? (rounded & 0) + 0x7fff : rounded; // NaN
#ifdef __AVX512F__
    if constexpr (N == 16)
        return _mm256_storeu_si256((__m256i *)to, _mm512_maskz_cvtepi32_epi16(0xffff, (__m512i)rounded));
#endif
    typename HostVectors<N>::Half narrow = __builtin_convertvector(rounded, typename HostVectors<N>::Half);
    __builtin_memcpy(to, &narrow, sizeof narrow);
}

#endif
