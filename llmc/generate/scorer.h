// Scores texts with the reward model of a Hugging Face directory (LlamaForSequenceClassification of one label);
// scripts/rejection_sample.py calls it.
//
//   scorer_open → scorer_score again and again
#ifndef LLMC_GENERATE_SCORER_H
#define LLMC_GENERATE_SCORER_H

#include <stdint.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Scorer Scorer;

// Loads config.json and the safetensors of `folder`, with room for texts of up to `longest` tokens (beyond the model's
// context: cut to that) and forward passes of at least `positions` tokens. threads: of the CPU target, 0: all. Errors:
// 2 (a file's content, another kind of model, sizes), 1 (I/O, memory).
int scorer_open(Scorer **out, const char *folder, int positions, int longest, int threads, Error *err);
void scorer_close(Scorer *s); // NULL is allowed

int scorer_context(const Scorer *s); // tokens that a text can have
int scorer_vocab_size(const Scorer *s);

// scores [n] = the reward head's output on the last token of each of n texts, which stand one after the other in `tokens`,
// lengths[i] tokens each. Several texts share a row without seeing each other, and their common beginning is computed
// once a row: so the other texts affect the rounding of a score, and nothing else. Errors: 2 (a text empty or longer than
// the context, an id beyond the vocabulary: which text).
int scorer_score(Scorer *s, const int32_t *tokens, const int32_t *lengths, int n, float *scores, Error *err);

#ifdef __cplusplus
}
#endif
#endif
