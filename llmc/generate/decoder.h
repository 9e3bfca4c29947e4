// Text token by token: a cache of keys and values beside a model's weights, so that a new token costs one pass over the
// weights and over its row's cache. There are `rows` texts; each step adds one token to some of them, or several.
//
//   decoder_create → decoder_prefill for each row → decoder_step again and again, with decoder_logits after either
//
// The cache is in pages, which rows can share: a copy of a row takes one page, and rows that begin alike can have the same.
//
// A row's result does not depend on what the other rows hold. On the cpu target it has the same bits for any number of
// tokens in a step; otherwise the matrix library may choose another order of summation for another number, unless
// decoder_pad_steps makes the number the same in all steps. (decoder_prefill computes by other products than steps do.)
#ifndef LLMC_GENERATE_DECODER_H
#define LLMC_GENERATE_DECODER_H

#include <stdint.h>
#include <stdio.h>

#include "base/error.h"
#include "generate/page_table.h"
#include "model/llama3_create.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Decoder Decoder;

typedef struct {
    int rows;
    int capacity;  // tokens that a row can hold
    int step;      // tokens of a step, at most; 0: as many as rows
    int64_t pages; // of PAGE_TOKENS tokens (generate/pages.h); 0: as many as full rows need
} DecoderSizes;

// As many pages as this share of what is free on m's device holds, but one at least.
int64_t decoder_fitting_pages(Llama3 *m, double share);

// A decoder over m, which must outlive it and whose T is at least the capacity. It computes on m's stream and in m's memory
// for activations, so it takes turns with training steps; when weights change in between, the rows' caches are stale.
// All memory is allocated here. Errors: 2 (sizes), 1 (memory).
int decoder_create(Decoder **out, Llama3 *m, const DecoderSizes *sizes, Error *err);
void decoder_destroy(Decoder *d); // NULL is allowed

int decoder_rows(const Decoder *d);
int decoder_capacity(const Decoder *d);
int decoder_length(const Decoder *d, int row); // number of tokens that the row holds

// From here on the matrix products of a step have at least `tokens` rows (at most those of the largest step; 0: as many as the
// step). With as many as the largest step has, a row's result has the same bits in every step.
void decoder_pad_steps(Decoder *d, int tokens);

// Prints the model's memory and the decoder's in one table.
void decoder_print_memory(const Decoder *d, FILE *to);

// Row `row` becomes these n tokens. Errors: 2 (no token, more than the capacity, an id beyond the vocabulary), then
// the row is as it was; 1 (too few pages), then it is empty.
int decoder_prefill(Decoder *d, int row, const int32_t *tokens, int n, Error *err);

// Adds tokens[i] to row rows[i], for n different rows. Errors: 2 (a row is full, an id beyond the vocabulary, no such row),
// 1 (too few pages); all rows then hold what they held.
int decoder_step(Decoder *d, const int32_t *rows, const int32_t *tokens, int n, Error *err);

typedef struct {
    int32_t row, token;
    int32_t slot; // of decoder_logits for those after this token; -1: none
} DecoderToken;

// The same for any tokens, those of a row in their order, up to the largest step's. Slots are below that number, and below the
// number of rows.
int decoder_add(Decoder *d, const DecoderToken *tokens, int n, Error *err);

// Row `to` becomes a copy of row `from`: so a prompt is computed once for several continuations. Errors: 1 (no page).
int decoder_copy(Decoder *d, int to, int from, Error *err);

// Rows and pages (generate/page_table.h): that of clear, reserve, share and keep.
PageTable *decoder_pages(Decoder *d);

// [vocab_size], in fp32: of slot `row`, which has those after the row's last token from a prefill, step or copy until the next.
const float *decoder_logits(const Decoder *d, int row);

#ifdef __cplusplus
}
#endif
#endif
