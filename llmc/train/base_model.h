// The base model of adapters (--lora-rank). It is read at each start and never written; a checkpoint has its folder and a
// fingerprint of its weights.
#ifndef LLMC_TRAIN_BASE_MODEL_H
#define LLMC_TRAIN_BASE_MODEL_H

#include <stdbool.h>

#include "model/llama3_create.h"
#include "train/resume.h"

#ifdef __cplusplus
extern "C" {
#endif

// With --lora-rank, identity->base_model = the folder of --init-from, or the one that the resumed checkpoint names. Errors: 2.
int base_model_find(RunIdentity *identity, const Options *options, const Resume *resume, Error *err);

// Reads the base's weights; draws the adapters from the seed, or reads them from the checkpoint. new_head: draws a reward head,
// which the base lacks. Sets identity->base_fingerprint. Errors: 2 (among them another base than the checkpoint's), 1.
int base_model_load(RunIdentity *identity, Llama3 *model, bool new_head, const Options *options, const Resume *resume,
                    Error *err);

#ifdef __cplusplus
}
#endif
#endif
