// Random words as a pure function of a counter and a key: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", 2011).
#ifndef LLMC_DEVICE_PHILOX_H
#define LLMC_DEVICE_PHILOX_H

#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>

#include "device/vec.h"

enum { PHILOX_WORDS = 4, PHILOX_ROUNDS = 10 };

// [word][counter]
template <int COUNTERS> using PhiloxWords = uint32_t[PHILOX_WORDS][COUNTERS];

static __device__ __forceinline__ uint32_t multiply_high(uint32_t a, uint32_t b) {
    return (uint32_t)(((uint64_t)a * b) >> 32);
}

// x = the words of the counters from (counter, stream_id, step) on, of which the first grows.
template <int COUNTERS>
static __device__ __forceinline__ void philox(PhiloxWords<COUNTERS> &x, size_t counter, uint32_t stream_id,
                                              uint32_t step, uint64_t key) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    EACH_ELEMENT
    for (int c = 0; c < COUNTERS; c++) {
        x[0][c] = (uint32_t)(counter + c);
        x[1][c] = (uint32_t)((counter + c) >> 32);
        x[2][c] = stream_id;
        x[3][c] = step;
    }
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        EACH_ELEMENT
        for (int c = 0; c < COUNTERS; c++) {
            uint32_t h0 = multiply_high(0xD2511F53u, x[0][c]), l0 = 0xD2511F53u * x[0][c];
            uint32_t h1 = multiply_high(0xCD9E8D57u, x[2][c]), l1 = 0xCD9E8D57u * x[2][c];
            x[0][c] = h1 ^ x[1][c] ^ k0;
            x[1][c] = l1;
            x[2][c] = h0 ^ x[3][c] ^ k1;
            x[3][c] = l0;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

#endif
