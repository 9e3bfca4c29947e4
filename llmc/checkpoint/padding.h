// The token that fills up the shorter texts of a batch. transformers takes for a text's last token, the one that a reward
// model scores, the last that is not config.json's pad_token_id, and fills up with the tokenizer's pad_token: the two must
// be one token, and one that no text ends with.
#ifndef LLMC_CHECKPOINT_PADDING_H
#define LLMC_CHECKPOINT_PADDING_H

#include <stdbool.h>

#include "model/config.h"

#ifdef __cplusplus
extern "C" {
#endif

// Does the token occur in texts?
typedef bool (*TokenOccurs)(const void *context, int id);

// config->pad_token_id = that of the special tokens in folder/tokenizer.json which pads: the model's, the tokenizer's, else
// one that is named for it, else any; none that begins or ends a text or is named for an end, that the tokenizer or its chat
// template adds to one, or that occurs (NULL: not asked); -1: none is left. tokenizer_config.json then names it, as do
// special_tokens_map.json and generation_config.json where they are; with -1 they name none, and transformers refuses batches
// instead of scoring them wrongly. Files that say so already are not touched. Without a tokenizer.json the model's own
// stays, unless it ends texts. Errors: 2 (a file's content), 1 (I/O).
int padding_settle(LlamaConfig *config, const char *folder, TokenOccurs occurs, const void *context, Error *err);

// The same for a reward model's directory, config.json included. A language model's stays as it is, and so does one without
// config.json.
int padding_settle_model(const char *folder, Error *err);

#ifdef __cplusplus
}
#endif
#endif
