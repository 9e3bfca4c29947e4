// cvt.rn.bf16x2: two floats become two bf16 in one register.
#ifndef LLMC_DEVICE_PTX_CONVERT_H
#define LLMC_DEVICE_PTX_CONVERT_H

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stdint.h>

// Rounds to nearest even; `low` goes into the low half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
#ifdef LLMC_TARGET_CPU
    return (uint32_t)__float2bfloat16(low).bits | (uint32_t)__float2bfloat16(high).bits << 16;
#else
    uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
#endif
}
__device__ __forceinline__ float low_bf16(uint32_t packed) { return __uint_as_float(packed << 16); }
__device__ __forceinline__ float high_bf16(uint32_t packed) { return __uint_as_float(packed & 0xffff0000u); }

#endif
