// Drawing the next token from logits.
#ifndef LLMC_GENERATE_SAMPLER_H
#define LLMC_GENERATE_SAMPLER_H

#include <stdint.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    double temperature; // 0: always the largest logit, of equal ones the first
    int top_k;          // only the k largest logits; 0: all
    double top_p;       // only the fewest most probable tokens that together have this probability; 1: all
} SamplerOptions;

// Errors: 2 (a value out of its range: named).
int sampler_check(const SamplerOptions *options, Error *err);

typedef struct Sampler Sampler; // scratch for a vocabulary

int sampler_create(Sampler **out, int vocab_size, Error *err);
void sampler_destroy(Sampler *s); // NULL is allowed

// ids [vocab_size] = the tokens that may be drawn, and probabilities [vocab_size] = theirs, which sum to 1. softmax(logits /
// temperature), then top_k of it, then top_p of what that left (as transformers orders them). Equal logits rank by id, so
// that a cut between them is not left to chance. A logit that is not a number is never kept. Returns how many tokens there
// are, at least one. A reduced set is ordered by falling probability, the whole vocabulary by id.
int sampler_kept(Sampler *s, const float *logits, const SamplerOptions *options, int32_t *ids, double *probabilities);

// One of them, drawn with the next random number of *state, which begins as any seed and is moved on. The same state,
// options and logits give the same token.
int32_t sampler_draw(Sampler *s, const float *logits, const SamplerOptions *options, uint64_t *state);

#ifdef __cplusplus
}
#endif
#endif
