// Tensors in a model's files that this program's models do not have: leftovers of other programs.
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

// Refuses (2) `count` tensors that the model does not have; a known prefix of another program is explained.
int leftovers_fail(const char *folder, int count, const char *first, Error *err);

// Refuses (2) a folder in which so many of all tensors are missing. first_extra: a tensor that is not expected; NULL: none.
int leftovers_fail_missing(const char *folder, int count, int all, const char *first, const char *first_extra,
                           Error *err);

// The end of a message: what the prefix of the name is and what to do; "": no known prefix.
const char *leftovers_explain(const char *name);

// A tied model's file may repeat the embedding as lm_head.weight; one of other values belongs to an untied model and is
// refused. Errors: 2, 1.
int leftovers_check_head(SafetensorsReader *reader, const LlamaConfig *config, Error *err);

typedef struct {
    int buffers;
    bool head;
} Leftovers;

// Drops buffers and a tied model's repeated head from the reader (*dropped =). Refuses any other tensor that a model of this
// configuration does not have, and a folder that lacks one that it has. Errors: 2, 1.
int leftovers_drop(Leftovers *dropped, SafetensorsReader *reader, const char *folder, const LlamaConfig *config,
                   Error *err);

// Prints a line that says what was dropped, if anything.
void leftovers_print(const Leftovers *dropped, const char *folder);

#ifdef __cplusplus
}
#endif
#endif
