// Checksum of weights. Each block adds the mixed words of a contiguous piece, its threads in strides, and at last one block adds
// the blocks. Addition modulo 2^64 gives the same in any order.
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

template <int THREADS>
__global__ void __launch_bounds__(THREADS)
    checksum_kernel(uint64_t *partial, const uint64_t *words, size_t n, size_t piece) {
    const size_t begin = blockIdx.x * piece, end = min(begin + piece, n);
    uint64_t sum = 0;
    for (size_t i = begin + threadIdx.x; i < end; i += THREADS) sum += mix(words[i] + (i + 1) * 0x9E3779B97F4A7C15u);
    sum = block_sum<THREADS>(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

template <int THREADS>
__global__ void __launch_bounds__(THREADS) finish_checksum_kernel(uint64_t *sum, const uint64_t *partial, int n) {
    uint64_t total = 0;
    for (int i = threadIdx.x; i < n; i += THREADS) total += partial[i];
    total = block_sum<THREADS>(total);
    if (threadIdx.x == 0) *sum = total;
}

extern "C" size_t checksum_scratch(void) { return MAX_CHECKSUM_BLOCKS; }

extern "C" void checksum(uint64_t *sum, uint64_t *scratch, const uint64_t *words, size_t n, cudaStream_t stream) {
    assert((uintptr_t)words % sizeof *words == 0);
    const size_t wanted = (n + MIN_BLOCK_WORDS - 1) / MIN_BLOCK_WORDS;
    const size_t blocks = wanted < 1 ? 1 : wanted > MAX_CHECKSUM_BLOCKS ? (size_t)MAX_CHECKSUM_BLOCKS : wanted;
    const size_t piece = (n + blocks - 1) / blocks;
    launch_block(checksum_kernel, CHECKSUM_BLOCK, dim3((unsigned)blocks), stream, scratch, words, n, piece);
    launch_block(finish_checksum_kernel, CHECKSUM_BLOCK, dim3(1), stream, sum, scratch, (int)blocks);
}
