// What a published model brings beside its weights: tokens that end a text, and files for other programs.
#ifndef LLMC_RUN_IMPORT_H
#define LLMC_RUN_IMPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "model/config.h"

#ifdef __cplusplus
extern "C" {
#endif

// *same = whether the model in the folder has the tokenizer with that hash, byte for byte. A model without a tokenizer counts
// as one that has it: training it on these ids would make no sense otherwise. Errors: 2 (generation_config.json is not
// JSON), 1 (unreadable).
int import_same_tokenizer(bool *same, const char *folder, const uint8_t *sha256, Error *err);

// Refuses (2) files that will name a reward model's pad token (checkpoint/padding.h), of the model in the folder or beside
// the finetuning data `rows`, if they are not JSON: before they are copied into a folder that may hold a run. Errors: 2, 1.
int import_check_padding(const char *folder, const char *rows, Error *err);

// Sets the configuration's tokens that begin and end a document to the data's (SHARD_NO_ID: none; without an end token the
// one that begins a document ends it too). keep: end tokens that the configuration has already are kept, as an instruct
// model's must be; otherwise they are removed. Errors: 2 (too many).
int import_document_ids(LlamaConfig *config, bool keep, uint32_t bos, uint32_t eos, Error *err);

// Copies generation_config.json and the files around the tokenizer of the model in the folder `from` into `to`, as far as
// they exist, and removes what another model left there. from NULL: only removes. Errors: 2, 1.
int import_files(const char *to, const char *from, Error *err);

// Copies the chat template and the files around the tokenizer that lie beside the finetuning data `rows` into `to`, over
// those of import_files: a model is prompted in the format of its rows. Errors: 2, 1.
int import_chat_files(const char *to, const char *rows, Error *err);

#ifdef __cplusplus
}
#endif
#endif
