// Rows of a batch out of row files: several whole conversations or comparisons one after the other (loader.h).
#ifndef LLMC_LOADER_PACKS_H
#define LLMC_LOADER_PACKS_H

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

typedef struct Packs Packs;

// For at most max_files row files. Errors: 1 (memory).
int packs_create(Packs **out, const LoaderSpec *spec, size_t max_files, Error *err);

// Opens one more file; *file = what it says of itself. Errors: 2 (content, another kind than the spec's), 1 (cannot be
// read, memory).
int packs_add(Packs *packs, const char *path, DataFile *file, Error *err);

// Chooses which rows stand together, once all files are added. Errors: 2 (rows longer than T: how many, the first one's
// file and line; with skip_long: no row is left), 1 (memory).
int packs_make(Packs *packs, Error *err);

uint64_t packs_count(const Packs *packs);
uint64_t packs_num_rows(const Packs *packs);    // that are in packs
uint64_t packs_num_skipped(const Packs *packs); // too long
void packs_describe_skipped(const Packs *packs, char *text, size_t capacity); // the first of these, of which there must be one
uint64_t packs_num_answers(const Packs *packs); // of all files' rows
bool packs_have_token(const Packs *packs, uint32_t id); // in any row
double packs_share_filled(const Packs *packs);  // of all positions

// Row `row` of the batch = that pack; num_targets, num_answers and num_groups +=, and what they count goes after what
// is there. Errors: 2 (id outside the vocabulary), 1 (read).
int packs_fill(Packs *packs, uint64_t pack, int row, Batch *out, Error *err);

// Positions [from, T) of the batch's row = positions left over.
void batch_clear(Batch *out, int T, int row, int from, bool excluded);

// A token to be read alone, without a target, at one of the B*T positions; what it sees: loader/batch.h.
void batch_put(Batch *out, size_t at, int32_t token, int doc_start, int excluded_begin, int excluded_end);

void packs_close(Packs *packs); // NULL is allowed

#ifdef __cplusplus
}
#endif
#endif
