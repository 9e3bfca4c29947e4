// Which of several sources each row of a span is of (loader/mixture.h): every row adds to each source's credit its share, and
// the source of the largest credit has the row and pays 1; of equal ones the first.
#ifndef LLMC_LOADER_SHARE_WALK_H
#define LLMC_LOADER_SHARE_WALK_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    double share, slope; // share + slope * x, x from 0 to 1 over the span; of all sources these add up to 1
    double credit;       // at the span's begin
    int64_t left;        // rows that it may have; then its share goes to the others in proportion
} SourceShare;

static inline bool share_is_used(const SourceShare *s) { return s->share > 0 || s->share + s->slope > 0; }

// The arrays have an entry a source.
typedef struct {
    const SourceShare *sources;
    int count, num_active; // active: used and not used up
    int64_t rows, row;     // of the span; the walk has passed rows [0, row)
    int64_t *taken;        // rows of the source among these
    double *credit;        // minus infinity: not active
    double *share, *slope; // of sources; not active: 0
    double sum_share, sum_slope;
} ShareWalk;

bool share_walk_create(ShareWalk *walk, int count); // false: no memory
void share_walk_free(ShareWalk *walk);

// Begins a span; `sources` [count] are kept.
void share_walk_begin(ShareWalk *walk, const SourceShare *sources, int64_t rows);

// Returns the next row's source. At least one must be active.
int share_walk_next(ShareWalk *walk);

// Passes all rows before `row`; from the span's begin if it has passed that one already. A few nanoseconds a row.
void share_walk_to(ShareWalk *walk, int64_t row);

#ifdef __cplusplus
}
#endif
#endif
