// Batches out of a set of shards (loader/shard.h) or of row files (loader/rows.h): a pure function of (seed, step,
// micro-batch, rank, world), so that a run resumes exactly, on any number of ranks, with no loader state in the
// checkpoint.
//
// A set is cut into windows of T positions. Window w of a shard is tokens [w*T, w*T + T]: T inputs and, shifted by
// one, T targets; a shard of n tokens has (n-1)/T windows. A window of row files is a pack: several whole rows one
// after the other, chosen once when the set is opened (loader/packing.h).
//
// An epoch visits every window of the set once, in the order of a seeded permutation that is drawn again for each
// epoch. Row `row` of a micro-batch is sample s = ((step*grad_accum + micro)*world + rank)*B + row of the run: window
// s % windows of epoch s / windows. So a step's set of samples depends on the product grad_accum * world * B alone.
//
// In a pack a conversation of n tokens takes n positions. A comparison takes those of its prompt without the last
// token and then, for each of its answers, the prompt's last token and the answer's: so each answer's first token is
// predicted by a position of its own. Answers do not see each other (excluded). Positions left over at the pack's end
// have token 0, no target, and are documents of their own.
#ifndef LLMC_LOADER_LOADER_H
#define LLMC_LOADER_LOADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "loader/batch.h"
#include "loader/data_file.h"
#include "loader/spec.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Loader Loader;

// Opens all files that the pattern names (file_match), in the byte order of their paths, and checks each. They must be of
// the spec's kind and agree in token width, vocabulary, BOS id and tokenizer; their vocabulary must fit into the
// model's vocab_size; and if tokenizer_sha256 is not NULL, their tokenizer must be that one. Errors: 2 (arguments, no
// match, a file's content, a shard shorter than a window, rows longer than one), 1 (cannot be read). *out is set on
// success only.
int loader_open(Loader **out, const char *pattern, const LoaderSpec *spec, int vocab_size,
                const uint8_t *tokenizer_sha256, Error *err);

// Overwrites (=) the batch's arrays and counts with micro-batch `micro` (0..grad_accum-1) of `step` (>= 0). Allocates
// nothing. One call at a time on a loader. Errors: 2 (id outside the vocabulary: file, position, id), 1 (read).
int loader_fetch(Loader *loader, int64_t step, int micro, Batch *out, Error *err);

void loader_close(Loader *loader); // NULL is allowed

uint64_t loader_num_windows(const Loader *loader); // windows, that is samples, of one epoch
uint64_t loader_num_batches(const Loader *loader); // whole micro-batches of B in an epoch; with `once` also a last
                                                   // one that is not whole
uint64_t loader_num_tokens(const Loader *loader);  // tokens in all files
int loader_num_shards(const Loader *loader);       // files
uint64_t loader_num_rows(const Loader *loader);    // rows of an epoch; documents: 0, as in what follows
uint64_t loader_num_skipped(const Loader *loader); // rows left out as too long

// text = the first of them: its file, its number there, what it was made from, its positions. At least one was left out.
void loader_describe_skipped(const Loader *loader, char *text, size_t capacity); // capacity: LOADER_SKIPPED_SIZE

uint64_t loader_num_answers(const Loader *loader);        // of all rows, those left out included
bool loader_has_token(const Loader *loader, uint32_t id); // in any row of the files
double loader_fill(const Loader *loader);                 // share of the packs' positions that hold rows; documents: 1
uint64_t loader_fingerprint(const Loader *loader); // of the files' names, sizes and headers, and of rows' contents

const DataFile *loader_files(const Loader *loader, int *count); // *count = how many

// Refuses (2) a validation set of which training would see a file (loader/overlap.h).
int loader_refuse_overlap(const Loader *train, const Loader *val, Error *err);

// How many files of the set it has already under another name. *first and *second (=): two names of one file; as before
// if there is none.
int loader_count_duplicates(const Loader *loader, const char **first, const char **second);

bool loader_names_tokenizer(const Loader *loader); // false: shards of llm.c
uint32_t loader_vocab_size(const Loader *loader);  // every id is below it
uint32_t loader_bos_id(const Loader *loader);      // begins a document or text; SHARD_NO_ID: none
uint32_t loader_eos_id(const Loader *loader);      // ends a document or an assistant's turn; likewise

#ifdef __cplusplus
}
#endif
#endif
