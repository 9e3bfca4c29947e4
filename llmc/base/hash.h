// XXH128 (xxHash): a fast checksum that finds damage; it is no defence against forgery.
#ifndef LLMC_BASE_HASH_H
#define LLMC_BASE_HASH_H

#include <stddef.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { DIGEST_LENGTH = 32 };

typedef struct {
    char text[DIGEST_LENGTH + 1]; // lower-case hexadecimal, as `xxhsum -H2` prints it
} Digest;

Digest hash_bytes(const void *data, size_t bytes);
int hash_file(const char *path, Digest *digest, Error *err); // of a file's bytes. Errors: 2, 1

// The same for bytes that come in pieces.
typedef struct Hasher Hasher;
Hasher *hasher_create(void); // NULL: no memory
void hasher_add(Hasher *hasher, const void *data, size_t bytes);
Digest hasher_digest(const Hasher *hasher); // of all that was added so far
void hasher_destroy(Hasher *hasher);        // NULL is allowed

#ifdef __cplusplus
}
#endif
#endif
