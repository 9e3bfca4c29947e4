#include "base/sha256.h"

#include <string.h>
#include <unistd.h>

#include "base/file.h"

static const uint32_t round_constants[64] = { // FIPS 180-4, 4.2.2: cube roots of the first 64 primes
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotate(uint32_t x, int n) { return x >> n | x << (32 - n); }

static void expand_schedule(uint32_t w[64], const uint8_t block[64]) {
    for (int t = 0; t < 16; t++) {
        const uint8_t *b = block + 4 * t;
        w[t] = (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
    }
    for (int t = 16; t < 64; t++) {
        uint32_t s0 = rotate(w[t - 15], 7) ^ rotate(w[t - 15], 18) ^ w[t - 15] >> 3;
        uint32_t s1 = rotate(w[t - 2], 17) ^ rotate(w[t - 2], 19) ^ w[t - 2] >> 10;
        w[t] = w[t - 16] + s0 + w[t - 7] + s1;
    }
}

static void take_block(uint32_t state[8], const uint8_t block[64]) { // 6.2.2
    uint32_t w[64], v[8];
    expand_schedule(w, block);
    memcpy(v, state, sizeof v);
    for (int t = 0; t < 64; t++) {
        uint32_t a = v[0], e = v[4];
        uint32_t sum1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25), choose = (e & v[5]) ^ (~e & v[6]);
        uint32_t sum0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22),
                 majority = (a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]);
        uint32_t t1 = v[7] + sum1 + choose + round_constants[t] + w[t];
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += t1;
        v[0] = t1 + sum0 + majority;
    }
    for (int i = 0; i < 8; i++) state[i] += v[i];
}

void sha256_begin(Sha256 *sha) {
    static const uint32_t initial[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    *sha = (Sha256){.length = 0};
    memcpy(sha->state, initial, sizeof initial);
}

void sha256_add(Sha256 *sha, const void *data, size_t bytes) {
    const uint8_t *from = data;
    while (bytes > 0) {
        size_t filled = sha->length % 64;
        if (filled == 0 && bytes >= 64) { // straight from the input
            take_block(sha->state, from);
            from += 64, bytes -= 64, sha->length += 64;
            continue;
        }
        size_t piece = bytes < 64 - filled ? bytes : 64 - filled;
        memcpy(sha->block + filled, from, piece);
        from += piece, bytes -= piece, sha->length += piece;
        if (sha->length % 64 == 0) take_block(sha->state, sha->block);
    }
}

void sha256_end(Sha256 *sha, uint8_t digest[SHA256_BYTES]) {
    static const uint8_t padding[64] = {0x80};
    uint64_t bits = sha->length * 8;
    size_t filled = sha->length % 64;
    sha256_add(sha, padding, filled < 56 ? 56 - filled : 120 - filled);
    uint8_t tail[8];
    for (int i = 0; i < 8; i++) tail[i] = (uint8_t)(bits >> (56 - 8 * i));
    sha256_add(sha, tail, 8);
    for (int i = 0; i < SHA256_BYTES; i++) digest[i] = (uint8_t)(sha->state[i / 4] >> (24 - 8 * (i % 4)));
}

static int add_file(Sha256 *sha, int fd, uint64_t size, const char *path, Error *err) {
    uint8_t buffer[1 << 14];
    for (uint64_t offset = 0; offset < size;) {
        size_t piece = size - offset < sizeof buffer ? (size_t)(size - offset) : sizeof buffer;
        int code = file_read_at(fd, buffer, piece, offset, path, err);
        if (code != 0) return code;
        sha256_add(sha, buffer, piece);
        offset += piece;
    }
    return 0;
}

int sha256_file(const char *path, uint8_t digest[SHA256_BYTES], Error *err) {
    int fd;
    uint64_t size;
    int code = file_open_read(path, &fd, &size, err);
    if (code != 0) return code;
    Sha256 sha;
    sha256_begin(&sha);
    code = add_file(&sha, fd, size, path, err);
    if (code == 0) sha256_end(&sha, digest);
    close(fd);
    return code;
}
