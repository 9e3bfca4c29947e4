// Batches out of several named sources of shards (loader/shard.h) in shares that change over a run.
//
// A run is a chain of spans: runs of rows of one length T whose weights are constant or change linearly. What a row
// holds is a pure function of (seed, cursors at the span's start, span, row), so that a run resumes exactly, on any
// number of ranks, inside any span: rows are numbered through all ranks and micro-batches,
//     row = ((step - first_step) * grad_accum + micro) * world * B + rank * B + b.
//
// Which source a row is of (loader/share_walk.h): the one that is furthest behind its share, so that after any number of
// rows no source is more than a few rows off it. Shares are weights over their sum at the span's either end, and linear
// between the two. A source whose windows are used up (max_epochs) has no share; the others' grow in proportion.
//
// Which window of its source (loader/source_order.h): a source's shards are cut into blocks of `block` positions (a
// shard's last may be shorter; a shard of n tokens has n - 1 positions, as the last token is only a target), and the
// blocks are permuted by (seed, source's name, epoch). A span takes the next windows of T positions in that order, as many as it has rows of
// the source: a range. In a range the windows are shuffled once more; where it goes over into another epoch, each
// epoch's part by itself. So nothing is read twice before its epoch ends, and the next span begins where the range
// ends, whatever its T. What is left of a block and shorter than T is passed over and counted: at most T - 1 positions
// of each shard in an epoch, and less than a block where T grows.
//
// Memory, on top of a shard's own (path, file descriptor, header): 40 bytes a shard, and none by the number of blocks.
#ifndef LLMC_LOADER_MIXTURE_H
#define LLMC_LOADER_MIXTURE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "loader/batch.h"
#include "loader/data_file.h"
#include "loader/loader.h"
#include "loader/source_set.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t rows;
    const double *weights, *weights_at_end; // [sources] >= 0, at the span's first and last row; 0 at both: not used
    int T;                                  // a divisor of `block`
    bool document_mask;
} MixtureSpan;

// How far a source was read. Integers alone, to be kept as they are; with the same seed, sources and block they are exact. Under
// another block, place in proportion (that is * old block / new block) and 0 for offset, length, windows and taken go on about
// there, in an order in which some of the epoch's windows are read twice and some not.
typedef struct {
    int64_t epoch, place, offset;   // where its range begins: block's place in the epoch's order, position in the block
    int64_t length, windows, taken; // the range has so many windows of this length, so many of which were read
    int64_t tokens;                 // read since the run began
    int64_t credit;                 // of its share, in 2^-20 tokens
} MixtureCursor;

typedef struct Mixture Mixture;

// Opens the sources (source_set_open). block: a multiple of every T, such as the least common multiple. Errors: 2, 1. *out is
// set on success only.
int mixture_open(Mixture **out, const MixtureSource *sources, int count, int block, uint64_t seed, int vocab_size,
                 const uint8_t *tokenizer_sha256, Error *err);
void mixture_close(Mixture *mixture); // NULL is allowed

// Begins a span at the cursors `at` [sources], or (NULL) where the span before ended; the first one of a run begins at
// zeros. Cursors of any row of a span will do (mixture_position): what is left of its ranges is read first if T is the
// same, else passed over. Counts the span's rows by source, a few nanoseconds each. Keeps nothing of `span`. To check a
// whole run before its first step, begin its spans one after the other, and then the first one again.
// Errors: 2 (a source has no window of T positions; no BOS id for the document mask; all sources are used up before the span ends:
// their tokens, and those needed), 1 (memory). After one another span must be given its cursors.
int mixture_begin(Mixture *mixture, const MixtureSpan *span, const MixtureCursor *at, Error *err);

// Overwrites (=) the batch's arrays and counts with rows [first_row, first_row + B) of the span, which it must have.
// Allocates nothing. Rows in rising order cost nothing extra; a step back counts from the span's begin again. One call
// at a time. Errors: 2 (id outside the vocabulary: file, position, id), 1 (read).
int mixture_fetch(Mixture *mixture, int64_t first_row, int B, Batch *out, Error *err);

// by_source [sources] = the cursors once rows [0, row) of the span were read, row <= its rows.
void mixture_position(Mixture *mixture, int64_t row, MixtureCursor *by_source);

// by_source [sources] = how often the source was read by then: 1.5 is once and then half of it.
void mixture_epochs(Mixture *mixture, int64_t row, double *by_source);

// Positions of the source that were passed over, from the run's begin to the span's.
int64_t mixture_passed_over(const Mixture *mixture, int source);

// The span's first row at which the source, which has a weight in it, is used up; -1: none.
int64_t mixture_exhausted(const Mixture *mixture, int source);

// shares [sources] = the shares at that row of the span, which add up to 1: 0 of a source that is used up.
void mixture_shares(const Mixture *mixture, int64_t row, double *shares);

// The source's files; *count = how many.
const DataFile *mixture_files(const Mixture *mixture, int source, int *count);
uint64_t mixture_fingerprint(const Mixture *mixture, int source); // as loader_fingerprint
uint64_t mixture_tokens(const Mixture *mixture, int source);      // in all files of the source

// source_set_refuse_overlap
int mixture_refuse_overlap(const Mixture *mixture, const Loader *val, const char *owner, Error *err);

#ifdef __cplusplus
}
#endif
#endif
