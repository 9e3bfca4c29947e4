// Samples a text from the model, from the begin-of-document token on.
#ifndef LLMC_TRAIN_SAMPLE_H
#define LLMC_TRAIN_SAMPLE_H

#include <stddef.h>
#include <stdint.h>

#include "generate/decoder.h"
#include "generate/sampler.h"
#include "loader/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

// For --sample-every, on rank 0; else {0}.
typedef struct {
    Decoder *decoder;
    Sampler *sampler;
    int num_tokens; // the longest text
    int32_t *ids;   // [num_tokens]
    char *text;
    size_t capacity; // of text
} Sampling;

// num_tokens: at most the model's T. Errors: 1 (memory), 2. Call sample_close in any case.
int sample_open(Sampling *s, Llama3 *model, int num_tokens, Error *err);
void sample_close(Sampling *s);

// Returns a new text, as a terminal can show it: special tokens are left out, bytes that are not UTF-8 become U+FFFD, and control
// characters other than newline and tab become blanks. It ends early at an end token, and lives until the next call. The same
// model, seed and temperature give the same text.
const char *sample_write(Sampling *s, const Tokenizer *tokenizer, const LlamaConfig *config, double temperature,
                         uint64_t seed);

#ifdef __cplusplus
}
#endif
#endif
