// What a published model brings beside its weights: tokens that end a text, and files for other programs.
#ifndef LLMC_RUN_IMPORT_H
#define LLMC_RUN_IMPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "model/config.h"

#ifdef __cplusplus
extern "C" {
#endif

// *same = does the model in the folder have the tokenizer with that hash, byte for byte? A model without a tokenizer
// is taken to: its ids mean what the data's mean, or training it on them would make no sense. Errors: 2
// (generation_config.json is there and no JSON), 1 (unreadable).
int import_same_tokenizer(bool *same, const char *folder, const uint8_t *sha256, Error *err);

// Refuses (2) files of the model in the folder, or beside the finetuning data `rows`, that are to name a reward model's pad
// token (checkpoint/padding.h) and are no JSON: before they are copied into a folder that may hold a run. Errors: 2, 1.
int import_check_padding(const char *folder, const char *rows, Error *err);

// Takes the tokens that begin and end a document in the data (SHARD_NO_ID: none; without an end, the begin does both).
// keep: the end tokens that the configuration has stay beside them, as an instruct model's must; else they go. Errors:
// 2 (too many).
int import_document_ids(LlamaConfig *config, bool keep, uint32_t bos, uint32_t eos, Error *err);

// Copies what the model in the folder `from` has of generation_config.json and files around its tokenizer into `to`, and
// removes what is left there of another model. from NULL: only that. Errors: 2, 1.
int import_files(const char *to, const char *from, Error *err);

// Copies what lies of a chat template and around the tokenizer beside the finetuning data `rows` into `to`, over what
// import_files brought: a model is asked in the form that its rows have. Errors: 2, 1.
int import_chat_files(const char *to, const char *rows, Error *err);

#ifdef __cplusplus
}
#endif
#endif
