// A part of a checkpoint that is being written: where, and what of it is written.
#ifndef LLMC_CHECKPOINT_WRITING_H
#define LLMC_CHECKPOINT_WRITING_H

#include "checkpoint/checkpoint.h"
#include "checkpoint/checksums.h"

typedef struct {
    const CheckpointContent *content;
    const char *folder; // in the making
    const char *inside; // "" or, ending in "/", where in the folder texts are written
    Checksums sums;
    uint64_t bytes; // written so far
} Writing;

// A file is written: its checksum and size. Errors: 1.
int writing_note(Writing *w, const char *name, const Digest *digest, uint64_t bytes, Error *err);

// Writes a small file of that name in `inside`, and notes it. Errors: 2, 1.
int writing_put(Writing *w, const char *name, const char *data, size_t bytes, Error *err);

#endif
