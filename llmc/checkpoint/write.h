// What write.c (folder and texts of a checkpoint) and write_tensors.c (its safetensors files) share.
#ifndef LLMC_CHECKPOINT_WRITE_H
#define LLMC_CHECKPOINT_WRITE_H

#include "checkpoint/checkpoint.h"
#include "checkpoint/checksums.h"

// A part that is being written.
typedef struct {
    const CheckpointContent *content;
    const char *folder; // in the making
    const char *inside; // "" or, ending in "/", where in the folder texts are written
    Checksums sums;
    uint64_t bytes; // written so far
} Writing;

// A file is written: its checksum and size. Errors: 1.
int writing_note(Writing *w, const char *name, const Digest *digest, uint64_t bytes, Error *err);

// This part's tensors of the model, if it has any, and its shard of the optimizer's state. Errors: 2, 1.
int write_parameters(Writing *w, Error *err);
int write_training(Writing *w, Error *err);

// The whole model with the mean over steps for its weights, out of the parts of all ranks, which are written. Errors: 2, 1.
int write_averaged(Writing *w, const char *name, Error *err);

#endif
