// The token that pads the shorter texts of a batch. transformers pads with the tokenizer's pad_token, and takes the last token
// that is not config.json's pad_token_id for a text's last, which a reward model scores. So both must be the same token, and
// one that no text ends with.
#ifndef LLMC_CHECKPOINT_PADDING_H
#define LLMC_CHECKPOINT_PADDING_H

#include <stdbool.h>

#include "model/config.h"

#ifdef __cplusplus
extern "C" {
#endif

// Whether the token occurs in texts.
typedef bool (*TokenOccurs)(const void *context, int id);

// Sets config->pad_token_id to a special token of folder/tokenizer.json: the model's pad token, else the tokenizer's, else one
// that is named for it, else any. A token is not taken if it begins or ends a text or is named for an end, if the tokenizer
// or its chat template adds it, or if it occurs (NULL: not asked); -1: none is left. tokenizer_config.json then names the
// token, as do special_tokens_map.json and generation_config.json where they exist; with -1 they name none, so that
// transformers refuses batches instead of scoring them wrongly. Files that name it already are not touched. Without a
// tokenizer.json the model's own pad token is kept, unless it ends texts. Errors: 2 (a file's content), 1 (I/O).
int padding_settle(LlamaConfig *config, const char *folder, TokenOccurs occurs, const void *context, Error *err);

// The same for a reward model's directory, config.json included. A language model's directory, or one without config.json,
// is left as it is.
int padding_settle_model(const char *folder, Error *err);

#ifdef __cplusplus
}
#endif
#endif
