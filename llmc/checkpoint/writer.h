// Writes checkpoints in a thread of its own, one at a time, while training goes on.
#ifndef LLMC_CHECKPOINT_WRITER_H
#define LLMC_CHECKPOINT_WRITER_H

#include <stdbool.h>

#include "checkpoint/checkpoint.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Writer Writer;

typedef enum {
    WRITE_ALL,    // checkpoint_write
    WRITE_PART,   // checkpoint_write_part
    WRITE_COMMIT, // checkpoint_commit
} WriterJob;

typedef struct {
    int64_t step;
    WriterJob job;
    Error error;    // code 0: done; of all or a commit: the checkpoint is whole and on the disk
    double seconds; // that it took
    uint64_t bytes; // that were written
    char *lines;    // of a part: its checksums, to be freed by whoever asked; else NULL
} WriterResult;

int writer_create(Writer **out, Error *err); // Errors: 1

// Begins to write content, if no write is running; lines: of a commit. Texts and configuration are copied; table and snapshot
// are the caller's and must not change until the write has ended. A result that was not taken is dropped. Errors: 1.
int writer_begin(Writer *writer, WriterJob job, const CheckpointContent *content, const char *lines, Error *err);

// Returns true, once for each write, if a write has ended; then *result =. Does not wait.
bool writer_finished(Writer *writer, WriterResult *result);

// The same, but waits for a write that is running. false: none was, or its result has been given already.
bool writer_wait(Writer *writer, WriterResult *result);

void writer_destroy(Writer *writer); // waits; NULL is allowed

#ifdef __cplusplus
}
#endif
#endif
