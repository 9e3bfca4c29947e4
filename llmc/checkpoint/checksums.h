// trainer/checksums.xxh128 of a checkpoint: a line "<32 hexadecimal digits>  <path within the checkpoint>" for every
// other file, as `xxhsum -H2` prints them (so `xxhsum -c trainer/checksums.xxh128` checks them from within the
// folder), then "# xxh128 of the lines above: <32 hexadecimal digits>".
#ifndef LLMC_CHECKPOINT_CHECKSUMS_H
#define LLMC_CHECKPOINT_CHECKSUMS_H

#include "base/hash.h"

#ifdef __cplusplus
extern "C" {
#endif

#define CHECKSUMS_FILE "trainer/checksums.xxh128"

typedef struct {
    char *text; // owned
    size_t length;
} Checksums; // begins as {0}

int checksums_add(Checksums *sums, const char *name, const Digest *digest, Error *err); // Errors: 1 (memory)
int checksums_write(Checksums *sums, const char *folder, Error *err);                   // Errors: 2, 1
void checksums_free(Checksums *sums);

int checksums_verify(const char *folder, Error *err); // checkpoint_verify

// Of any directory of a model: its weights, where they are those of a checkpoint or of the mean over steps in one
// ("averaged"). Errors: 2 (the file), 1 (it cannot be read).
int checksums_verify_weights(const char *folder, Error *err);

#ifdef __cplusplus
}
#endif
#endif
