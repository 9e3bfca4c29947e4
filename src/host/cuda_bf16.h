// Host target: bfloat16 as <cuda_bf16.h> has it, rounding to nearest even.
#ifndef LLMC_HOST_CUDA_BF16_H
#define LLMC_HOST_CUDA_BF16_H

#include "cuda_runtime.h"

struct alignas(2) __nv_bfloat16 {
    uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float((uint32_t)x.bits << 16); }

inline __nv_bfloat16 __float2bfloat16(float x) {
    uint32_t bits = __float_as_uint(x);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    uint32_t is_nan = (bits & 0x7fffffff) > 0x7f800000;
    return {(uint16_t)(is_nan ? 0x7fff : rounded)};
}

#endif
