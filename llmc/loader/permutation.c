#include "loader/permutation.h"

static const uint64_t golden = 0x9e3779b97f4a7c15u; // 2^64 over the golden ratio, as SplitMix64 counts

static uint64_t mix(uint64_t x) { // the finaliser of SplitMix64 (Steele, Lea, Flood 2014)
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

uint64_t permutation_key(uint64_t seed, uint64_t number) { return mix(mix(seed + golden) + number); }

// A Feistel network permutes the numbers of 2*half_bits bits, whatever its round function.
enum { ROUNDS = 8 };

static uint64_t round_of(uint64_t right, uint64_t round, uint64_t key) {
    return mix(mix(key + round * golden) ^ right);
}

static uint64_t feistel(uint64_t x, int half_bits, uint64_t key) {
    uint64_t mask = ((uint64_t)1 << half_bits) - 1;
    uint64_t left = x >> half_bits, right = x & mask;
    for (uint64_t round = 1; round <= ROUNDS; round++) {
        uint64_t next = left ^ (round_of(right, round, key) & mask);
        left = right;
        right = next;
    }
    return left << half_bits | right;
}

static uint64_t feistel_inverse(uint64_t x, int half_bits, uint64_t key) {
    uint64_t mask = ((uint64_t)1 << half_bits) - 1;
    uint64_t left = x >> half_bits, right = x & mask;
    for (uint64_t round = ROUNDS; round >= 1; round--) {
        uint64_t before = right ^ (round_of(left, round, key) & mask);
        right = left;
        left = before;
    }
    return left << half_bits | right;
}

static int half_bits_of(uint64_t n) {
    int half_bits = 1;
    while (half_bits < 32 && (uint64_t)1 << (2 * half_bits) < n) half_bits++;
    return half_bits;
}

// Walking the cycle until it comes back below n makes of that a permutation of 0..n-1; the power of four is
// less than 4n, so that takes fewer than 4 steps on average.
uint64_t permutation_at(uint64_t x, uint64_t n, uint64_t key) {
    const int half_bits = half_bits_of(n);
    do x = feistel(x, half_bits, key);
    while (x >= n);
    return x;
}

uint64_t permutation_inverse(uint64_t x, uint64_t n, uint64_t key) {
    const int half_bits = half_bits_of(n);
    do x = feistel_inverse(x, half_bits, key);
    while (x >= n);
    return x;
}

void permutation_shuffle(int *order, int count, uint64_t key) {
    for (int i = 0; i < count; i++) order[i] = i;
    for (int i = count - 1; i > 0; i--) {
        int j = (int)(mix(key + (uint64_t)i * golden) % (uint64_t)(i + 1)), kept = order[i];
        order[i] = order[j];
        order[j] = kept;
    }
}
