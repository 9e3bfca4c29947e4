// Scores of texts by a reward model of a Hugging Face directory (LlamaForSequenceClassification of one label): what
// scripts/rejection_sample.py is made of.
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

// scores [n] = of n texts that stand one behind the other in `tokens`, lengths[i] tokens each: the reward head on the last
// token. Several texts share a row, unseen by each other, and what all of them begin with is computed once a row. So a score
// depends on the other texts in its rounding, and on nothing else. Errors: 2 (a text empty or longer than the context, an
// id beyond the vocabulary: which text).
int scorer_score(Scorer *s, const int32_t *tokens, const int32_t *lengths, int n, float *scores, Error *err);

#ifdef __cplusplus
}
#endif
#endif
