// Tensors of a model's files that no model of ours has: what other programs leave there.
#ifndef LLMC_CHECKPOINT_LEFTOVERS_H
#define LLMC_CHECKPOINT_LEFTOVERS_H

#include <stdbool.h>

#include "checkpoint/safetensors.h"
#include "model/config.h"

#ifdef __cplusplus
extern "C" {
#endif

// RoPE's frequencies, which the configuration gives.
bool leftovers_is_buffer(const char *name);

// Refuses (2) that many tensors that the model has not; of a known prefix of other programs with what it is.
int leftovers_fail(const char *folder, int count, const char *first, Error *err);

// Refuses (2) a folder in which that many of all tensors are missing. first_extra: NULL where there is no other.
int leftovers_fail_missing(const char *folder, int count, int all, const char *first, const char *first_extra,
                           Error *err);

// What the prefix of the name is and what to do, to stand behind a message; "": none that is known.
const char *leftovers_explain(const char *name);

// A tied model's file may repeat the embedding as lm_head.weight; one of other values belongs to an untied model and is
// refused. Errors: 2, 1.
int leftovers_check_head(SafetensorsReader *reader, const LlamaConfig *config, Error *err);

typedef struct {
    int buffers;
    bool head;
} Leftovers;

// Drops buffers and a tied model's repeated head from the reader (*dropped =); anything else that a model of this
// configuration has not is refused, and so is a folder where one of its own is missing. Errors: 2, 1.
int leftovers_drop(Leftovers *dropped, SafetensorsReader *reader, const char *folder, const LlamaConfig *config,
                   Error *err);

// Says what was dropped, if anything, on a line.
void leftovers_tell(const Leftovers *dropped, const char *folder);

#ifdef __cplusplus
}
#endif
#endif
