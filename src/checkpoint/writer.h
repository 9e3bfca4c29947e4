// Writes checkpoints in a thread of its own, one at a time, while training goes on.
#ifndef LLMC_CHECKPOINT_WRITER_H
#define LLMC_CHECKPOINT_WRITER_H

#include <stdbool.h>

#include "checkpoint/checkpoint.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Writer Writer;

typedef struct {
    int64_t step;
    Error error;    // code 0: the checkpoint is whole and on the disk
    double seconds; // that the write took
    uint64_t bytes;
} WriterResult;

int writer_create(Writer **out, Error *err); // Errors: 1

// Begins checkpoint_write(content). Texts and configuration are copied; table and snapshot are the caller's and must
// stay as they are until the write has ended. A result that nobody asked for is forgotten. Expects that no write
// is running. Errors: 1.
int writer_begin(Writer *writer, const CheckpointContent *content, Error *err);

// Has a write ended? Then *result =; true once for each write. Does not wait.
bool writer_finished(Writer *writer, WriterResult *result);

// The same, but waits for a write that is running. false: none was, or its result has been given already.
bool writer_wait(Writer *writer, WriterResult *result);

void writer_destroy(Writer *writer); // waits; NULL is allowed

#ifdef __cplusplus
}
#endif
#endif
