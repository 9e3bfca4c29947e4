// Numbers in bf16 as their bits, for code of the host; kernels have device/vec.h. The loops vectorise: no branches.
#ifndef LLMC_BASE_BF16_H
#define LLMC_BASE_BF16_H

#include <stdint.h>
#include <string.h>

// To the nearest, of two the even one. What is not finite stays so.
static inline uint16_t bf16_round(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? 0x7fff : rounded);
}

static inline float bf16_widen(uint16_t half) {
    const uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

#endif
