// A checksum of weights that does not depend on the order of work: replicas that hold the same bits have the same.
#ifndef LLMC_KERNELS_CHECKSUM_H
#define LLMC_KERNELS_CHECKSUM_H

#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// 64-bit words that checksum needs as scratch.
size_t checksum_scratch(void);

// sum [1] = sum over i < n of mix(words[i] + (i + 1) * 0x9E3779B97F4A7C15) modulo 2^64; mix is the finalizer of
// SplitMix64 (Steele, Lea, Flood 2014), so that a change of any bit, or of the order of words, shows. scratch
// [checksum_scratch()] is overwritten. Device memory, 8-byte aligned.
void checksum(uint64_t *sum, uint64_t *scratch, const uint64_t *words, size_t n, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
