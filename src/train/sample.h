// Text that the model writes, from the begin-of-document token on.
#ifndef LLMC_TRAIN_SAMPLE_H
#define LLMC_TRAIN_SAMPLE_H

#include <stddef.h>
#include <stdint.h>

#include "data/tokenizer.h"
#include "model/llama3.h"

#ifdef __cplusplus
extern "C" {
#endif

// An index drawn from softmax(logits / temperature), for a uniform in [0, 1); temperature 0: the largest
// logit, of equal ones the first. A logit that is not a number is never drawn.
int sample_index(const float *logits, int count, double temperature, double uniform);

// Fills ids[0..count): ids[0] begins a document, each other is drawn given those before it. Ends early behind
// a token that ends one. config is the model's, with the tokens that do so for its data. The same model, seed and temperature give the same ids. Returns how many there are. count
// is at most the model's T; logits has vocab_size elements and is overwritten.
int sample_ids(Llama3 *m, int32_t *ids, int count, const LlamaConfig *config, double temperature,
               uint64_t seed, float *logits);

// text = the ids' text as a screen can show it: special tokens left out, bytes that are no UTF-8 as U+FFFD,
// control characters but for newline and tab as blanks. Cut where capacity ends. Returns its length.
size_t sample_text(const Tokenizer *tokenizer, const int32_t *ids, int count, char *text, size_t capacity);

#ifdef __cplusplus
}
#endif
#endif
