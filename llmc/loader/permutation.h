// Seeded order: a keyed permutation of any number of things in O(1) memory.
#ifndef LLMC_LOADER_PERMUTATION_H
#define LLMC_LOADER_PERMUTATION_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Returns a key for the epoch, row or other thing of that number under a seed.
uint64_t permutation_key(uint64_t seed, uint64_t number);

// Returns what the permutation of 0..n-1 with that key maps x to; x < n.
uint64_t permutation_at(uint64_t x, uint64_t n, uint64_t key);

// Returns what permutation_at maps to x; x < n.
uint64_t permutation_inverse(uint64_t x, uint64_t n, uint64_t key);

// order[0..count) = 0..count-1 shuffled by the key (Fisher and Yates); for a few things.
void permutation_shuffle(int *order, int count, uint64_t key);

#ifdef __cplusplus
}
#endif
#endif
