// Text that the model writes, from the begin-of-document token on.
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

// Of --sample-every; rank 0's, {0} without.
typedef struct {
    Decoder *decoder;
    Sampler *sampler;
    int num_tokens; // of a text, at most
    int32_t *ids;   // [num_tokens]
    char *text;
    size_t capacity; // of text
} Sampling;

// num_tokens: at most the model's T. Errors: 1 (memory), 2. sample_close is due in any case.
int sample_open(Sampling *s, Llama3 *model, int num_tokens, Error *err);
void sample_close(Sampling *s);

// A new text, as a screen can show it: special tokens left out, bytes that are no UTF-8 as U+FFFD, control characters but for
// newline and tab as blanks. It ends early behind an end token, and lives until the next call. The same model, seed and
// temperature write the same.
const char *sample_write(Sampling *s, const Tokenizer *tokenizer, const LlamaConfig *config, double temperature,
                         uint64_t seed);

#ifdef __cplusplus
}
#endif
#endif
