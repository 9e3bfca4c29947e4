// What training adapters adds: the model that they adapt, which is read at each start and never written; a checkpoint names
// it, and knows its weights by their checksum.
#ifndef LLMC_TRAIN_BASE_MODEL_H
#define LLMC_TRAIN_BASE_MODEL_H

#include <stdbool.h>

#include "model/llama3_create.h"
#include "train/resume.h"

#ifdef __cplusplus
extern "C" {
#endif

// identity->base_model (=) with --lora-rank: the folder of --init-from, or of the checkpoint that is resumed. Errors: 2.
int base_model_find(RunIdentity *identity, const Options *options, const Resume *resume, Error *err);

// Weights of the base, and adapters: drawn from the seed, or read from the checkpoint. new_head: the base has no reward head, it
// is drawn. Sets identity->base_fingerprint. Errors: 2 (among them a base that is another than the checkpoint's), 1.
int base_model_load(RunIdentity *identity, Llama3 *model, bool new_head, const Options *options, const Resume *resume,
                    Error *err);

#ifdef __cplusplus
}
#endif
#endif
