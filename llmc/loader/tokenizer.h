// Token ids to text, from the Hugging Face tokenizer.json of a BPE: byte-level as Llama 3's, or SentencePiece's as
// Llama 2's (token_decoder.h). Encoding is done before training, in Python.
#ifndef LLMC_LOADER_TOKENIZER_H
#define LLMC_LOADER_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Tokenizer Tokenizer;

// Reads and checks the tokenizer.json at path. Errors: 2 (malformed, no BPE, or another decoder), 1 (cannot be read).
int tokenizer_open(Tokenizer **out, const char *path, Error *err);

// Writes the bytes of ids[0..count) to text, as much as fits into capacity - 1, and a zero byte after them
// (capacity 0: writes nothing). Returns the bytes that the whole text has, without the zero byte.
// skip_special leaves out special tokens; other added tokens appear by their content. An id that the
// tokenizer does not know appears as U+FFFD. A byte-level token may be a part of a UTF-8 character, and the text is
// then not valid UTF-8; a run of byte tokens of a decoder with ByteFallback that is not UTF-8 appears as one U+FFFD a token.
size_t tokenizer_decode(const Tokenizer *tokenizer, const int32_t *ids, size_t count, bool skip_special, char *text,
                        size_t capacity);

int tokenizer_vocab_size(const Tokenizer *tokenizer);        // largest id + 1
const uint8_t *tokenizer_sha256(const Tokenizer *tokenizer); // 32 bytes: of the file; zeros where there is none (NULL)

void tokenizer_close(Tokenizer *tokenizer); // NULL is allowed

#ifdef __cplusplus
}
#endif
#endif
