// SHA-256 (FIPS 180-4).
#ifndef LLMC_BASE_SHA256_H
#define LLMC_BASE_SHA256_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SHA256_BYTES = 32 };

typedef struct {
    uint32_t state[8];
    uint64_t length;   // bytes taken so far
    uint8_t block[64]; // the last length % 64 of them
} Sha256;

void sha256_begin(Sha256 *sha);
void sha256_add(Sha256 *sha, const void *data, size_t bytes);
void sha256_end(Sha256 *sha, uint8_t digest[SHA256_BYTES]); // digest =; sha is spent

int sha256_file(const char *path, uint8_t digest[SHA256_BYTES],
                Error *err); // digest = that of the file's bytes

#ifdef __cplusplus
}
#endif
#endif
