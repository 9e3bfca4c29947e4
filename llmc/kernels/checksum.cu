// Checksum of weights. Each thread adds the mixed words that it takes in strides, each block adds its threads, and at last one
// block adds the blocks. Addition modulo 2^64 gives the same in any order.
#include "kernels/checksum.h"

#include <assert.h>

#include "device/reduce.h"

enum { CHECKSUM_BLOCK = 256, MAX_CHECKSUM_BLOCKS = 1024 };
enum { MIN_BLOCK_WORDS = 1 << 15 }; // less than this is not worth another block

__device__ __forceinline__ uint64_t mix(uint64_t x) {
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

__global__ void __launch_bounds__(CHECKSUM_BLOCK) checksum_kernel(uint64_t *partial, const uint64_t *words, size_t n) {
    const size_t stride = (size_t)gridDim.x * CHECKSUM_BLOCK;
    uint64_t sum = 0;
    for (size_t i = (size_t)blockIdx.x * CHECKSUM_BLOCK + threadIdx.x; i < n; i += stride)
        sum += mix(words[i] + (i + 1) * 0x9E3779B97F4A7C15u);
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(CHECKSUM_BLOCK)
    finish_checksum_kernel(uint64_t *sum, const uint64_t *partial, int n) {
    uint64_t total = 0;
    for (int i = threadIdx.x; i < n; i += CHECKSUM_BLOCK) total += partial[i];
    total = block_sum(total);
    if (threadIdx.x == 0) *sum = total;
}

extern "C" size_t checksum_scratch(void) { return MAX_CHECKSUM_BLOCKS; }

extern "C" void checksum(uint64_t *sum, uint64_t *scratch, const uint64_t *words, size_t n, cudaStream_t stream) {
    assert((uintptr_t)words % sizeof *words == 0);
    const size_t wanted = (n + MIN_BLOCK_WORDS - 1) / MIN_BLOCK_WORDS;
    const int blocks = wanted < 1 ? 1 : wanted > MAX_CHECKSUM_BLOCKS ? (int)MAX_CHECKSUM_BLOCKS : (int)wanted;
    launch(checksum_kernel, dim3(blocks), dim3(CHECKSUM_BLOCK), 0, stream, scratch, words, n);
    launch(finish_checksum_kernel, dim3(1), dim3(CHECKSUM_BLOCK), 0, stream, sum, scratch, blocks);
}
