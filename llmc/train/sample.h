// Text that the model writes, from the begin-of-document token on.
#ifndef LLMC_TRAIN_SAMPLE_H
#define LLMC_TRAIN_SAMPLE_H

#include <stddef.h>
#include <stdint.h>

#include "loader/tokenizer.h"
#include "generate/sampler.h"
#include "generate/decoder.h"

#ifdef __cplusplus
extern "C" {
#endif

// Of --sample-every; rank 0's, all NULL without.
typedef struct {
    Decoder *decoder;
    Sampler *sampler;
    int32_t *ids; // [sample_tokens]
} Sampling;

// Fills ids[0..count): ids[0] is the configuration's bos, each other is drawn given those before it. Ends early behind an
// end token. The same model, seed and temperature give the same ids. Returns how many there are. count is at most d's
// capacity; row 0 of d is overwritten.
int sample_ids(Decoder *d, Sampler *sampler, int32_t *ids, int count, const LlamaConfig *config, double temperature,
               uint64_t seed);

// text = the ids' text as a screen can show it: special tokens left out, bytes that are no UTF-8 as U+FFFD,
// control characters but for newline and tab as blanks. Cut where capacity ends. Returns its length.
size_t sample_text(const Tokenizer *tokenizer, const int32_t *ids, int count, char *text, size_t capacity);

#ifdef __cplusplus
}
#endif
#endif
