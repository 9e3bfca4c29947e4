// Batches out of a set of shards: a pure function of (seed, step, micro-batch, rank, world), so that a run
// resumes exactly, on any number of ranks, with no loader state in the checkpoint.
//
// Window w of a shard is tokens [w*T, w*T + T]: T inputs and, shifted by one, T targets; a shard of n tokens
// has (n-1)/T windows. An epoch visits every window of the set once, in the order of a seeded permutation
// that is drawn anew for each epoch. Row `row` of a micro-batch is sample s = ((step*grad_accum +
// micro)*world + rank)*B + row of the run: window s % windows of epoch s / windows. So a step's set of
// samples depends on the product grad_accum * world * B alone.
#ifndef LLMC_DATA_LOADER_H
#define LLMC_DATA_LOADER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int B, T;       // rows of a micro-batch on one rank, tokens of a row
    int grad_accum; // micro-batches of a step
    int rank, world;
    uint64_t seed;
    bool document_mask; // attention stays inside documents, which begin at the shards' BOS token
    bool shuffle;       // false: windows in file order, every epoch
} LoaderSpec;

// Arrays [B*T], memory of the caller's.
typedef struct {
    int32_t *tokens;    // inputs
    int32_t *targets;   // next token; -1: ignored (with document_mask: where the next token begins another document)
    int32_t *doc_start; // index within the row (0..t) of the first token of t's document; 0 without document_mask
    int32_t *order;     // the permutation of 0..B*T-1 that sorts positions stably by token id
    int num_targets;    // targets that are not -1
} Batch;

typedef struct Loader Loader;

// Opens all shards that match the glob pattern, in the byte order of their paths, and checks each. They must
// agree in token width, vocabulary, BOS id and tokenizer; their vocabulary must fit into the model's
// vocab_size; and if tokenizer_sha256 is not NULL, their tokenizer must be that one. Errors: 2 (arguments, no
// match, a shard's content or one shorter than a window), 1 (cannot be read). *out is set on success only.
int loader_open(Loader **out, const char *pattern, const LoaderSpec *spec, int vocab_size,
                const uint8_t *tokenizer_sha256, Error *err);

// Overwrites (=) the batch's arrays and num_targets with micro-batch `micro` (0..grad_accum-1) of `step` (>=
// 0). Allocates nothing. One call at a time on a loader. Errors: 2 (id outside the vocabulary: shard,
// position, id), 1 (read).
int loader_fetch(Loader *loader, int64_t step, int micro, Batch *out, Error *err);

void loader_close(Loader *loader); // NULL is allowed

uint64_t loader_num_windows(const Loader *loader); // windows, that is samples, of one epoch
uint64_t loader_num_tokens(const Loader *loader);  // tokens in all shards
int loader_num_shards(const Loader *loader);
uint64_t loader_fingerprint(const Loader *loader);            // of the shards' names, sizes and headers, in their order
const uint8_t *loader_tokenizer_sha256(const Loader *loader); // 32 bytes, from the headers
uint32_t loader_bos_id(const Loader *loader);                 // SHARD_NO_ID: none
uint32_t loader_eos_id(const Loader *loader);                 // likewise

#ifdef __cplusplus
}
#endif
#endif
