// Text token by token: a cache of keys and values beside a model's weights, so that a new token costs one pass over the
// weights and over its row's cache. There are `rows` texts; each step adds one token to some of them.
//
//   decoder_create → decoder_prefill for each row → decoder_step again and again, with decoder_logits after either
//
// A row's result does not depend on what the other rows hold. On the cpu target it has the same bits for any number of rows
// in a step up to 12; otherwise the matrix library may choose another order of summation for another number of rows, unless
// decoder_pad_steps makes the number the same in all steps.
#ifndef LLMC_GENERATE_DECODER_H
#define LLMC_GENERATE_DECODER_H

#include <stdint.h>
#include <stdio.h>

#include "base/error.h"
#include "model/llama3_create.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Decoder Decoder;

// A decoder over m, which must outlive it and whose T is at least `capacity` (tokens a row can hold). It computes on m's
// stream and in m's memory for activations, so it takes turns with training steps; when weights change in between, the rows'
// caches are stale. All memory is allocated here. Errors: 2 (sizes), 1 (memory).
int decoder_create(Decoder **out, Llama3 *m, int rows, int capacity, Error *err);
void decoder_destroy(Decoder *d); // NULL is allowed

int decoder_rows(const Decoder *d);
int decoder_capacity(const Decoder *d);
int decoder_length(const Decoder *d, int row); // number of tokens that the row holds

// From here on the matrix products of a step have at least `rows` rows (at most the decoder's; 0: as many as the step). With
// as many rows as the largest step has, a row's result has the same bits in every step.
void decoder_pad_steps(Decoder *d, int rows);

void decoder_clear(Decoder *d, int row); // the row holds no token

// Prints the model's memory and the decoder's in one table.
void decoder_print_memory(const Decoder *d, FILE *to);

// Row `row` becomes these n tokens. Errors: 2 (no token, more than the capacity, an id beyond the vocabulary); the row is
// then as it was.
int decoder_prefill(Decoder *d, int row, const int32_t *tokens, int n, Error *err);

// Adds tokens[i] to row rows[i], for n different rows. Errors: 2 (a row is full, an id beyond
// the vocabulary, no such row, a row given twice); all rows are then as they were.
int decoder_step(Decoder *d, const int32_t *rows, const int32_t *tokens, int n, Error *err);

// Row `to` becomes a copy of row `from`: so a prompt is computed once for several continuations.
void decoder_copy(Decoder *d, int to, int from);

// [vocab_size], in fp32, after the row's last token; valid until the row's next prefill, step or copy.
const float *decoder_logits(const Decoder *d, int row);

#ifdef __cplusplus
}
#endif
#endif
