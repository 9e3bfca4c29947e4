// The mask of attention (AttentionMask in kernels/attention_shape.h) for tiles of scores: which keys a query sees, which
// tiles need not be computed or not be masked, and how scores of keys that are not seen become -infinity.
//
// Queries and keys are positions in one row of the batch. doc_start [T] and excluded [T, 2] are that row's.
#ifndef LLMC_KERNELS_ATTENTION_MASK_H
#define LLMC_KERNELS_ATTENTION_MASK_H

#include <limits.h>

#include "device/mma.h"
#include "device/reduce.h"

// ---- the rule

// Causality and documents: doc is doc_start[query].
__device__ __forceinline__ bool sees(int query, int doc, int key) { return key >= doc && key <= query; }

// The keys that are excluded from a query.
struct ExcludedKeys {
    int begin, end;

    __device__ __forceinline__ ExcludedKeys(const int *excluded, int query)
        : begin(excluded[2 * query]), end(excluded[2 * query + 1]) {}
    __device__ __forceinline__ bool has(int key) const { return key >= begin && key < end; }
};

// ---- what holds for several queries, by which tiles are left out or left as they are

// The queries from first to last; first_doc and last_doc are the doc_start of these two. Keys are those in [key, end).
struct QuerySpan {
    int first, last, first_doc, last_doc;

    __device__ bool sees_none(int key, int end) const { return key > last || end <= first_doc; }
    __device__ bool sees_all(int key, int end) const { return key >= last_doc && end - 1 <= first; }
};

// Keys in [all_begin, all_end) are excluded from all of a warp's queries, keys outside [any_begin, any_end) from none.
struct SharedExclusion {
    int all_begin, all_end, any_begin, any_end;

    __device__ bool has_all(int key, int end) const { return key >= all_begin && end <= all_end; }
    __device__ bool has_any(int key, int end) const { return end > any_begin && key < any_end; }
};

// Of the warp's queries, N in each of its LANES; queries may stand in several lanes.
template <int LANES, int N>
__device__ __forceinline__ SharedExclusion shared_exclusion(const int *excluded, const int (&query)[N]) {
    // begin, -end; of intervals that are not empty also -begin, end
    int largest[4] = {INT_MIN, INT_MIN, INT_MIN, INT_MIN};
#pragma unroll
    for (int i = 0; i < N; i++) {
        const ExcludedKeys own(excluded, query[i]);
        largest[0] = max(largest[0], own.begin);
        largest[1] = max(largest[1], -own.end);
        largest[2] = max(largest[2], own.begin < own.end ? -own.begin : -INT_MAX);
        largest[3] = max(largest[3], own.begin < own.end ? own.end : 0);
    }
    if (LANES > 1) warp_max(largest);
    return {same_in_warp(largest[0]), same_in_warp(-largest[1]), same_in_warp(-largest[2]), same_in_warp(largest[3])};
}

// ---- scores whose rows are queries and whose columns are keys

// The queries of the rows that this thread holds of Scores, from row0 on. Those from T on, whose results nobody takes, have the
// document and the excluded keys of the last one.
template <typename Scores> struct HeldQueries {
    enum { ROWS = Held<Scores>::ROWS };
    int row0, last, doc[ROWS];

    __device__ __forceinline__ HeldQueries(const int *doc_start, int row0, int T) : row0(row0), last(T - 1) {
#pragma unroll
        for (int r = 0; r < ROWS; r++) doc[r] = doc_start[within(r)];
    }
    __device__ __forceinline__ int query(int r) const { return row0 + Held<Scores>::row_of(r); }
    __device__ __forceinline__ int within(int r) const { return min(query(r), last); }
    __device__ __forceinline__ void all_within(int (&queries)[ROWS]) const {
#pragma unroll
        for (int r = 0; r < ROWS; r++) queries[r] = within(r);
    }
};

// key0: the first column's key.
template <typename Scores>
__device__ __forceinline__ void mask_keys(Scores &s, const HeldQueries<Scores> &rows, int key0) {
    using Of = Held<Scores>;
#pragma unroll
    for (int r = 0; r < Of::ROWS; r++) {
        typename Of::Row &score = Of::row(s, r, 0);
        EACH_ELEMENT
        for (int e = 0; e < Of::ELEMENTS; e++)
            score[e] = sees(rows.query(r), rows.doc[r], key0 + Of::column(0, e)) ? score[e] : -INFINITY;
    }
}

template <typename Scores>
__device__ __forceinline__ void exclude_keys(Scores &s, const HeldQueries<Scores> &rows, const int *excluded,
                                             int key0) {
    using Of = Held<Scores>;
    const int row0 = same_in_warp(rows.row0); // asked for here, so that no addresses are kept in registers until then
#pragma unroll
    for (int r = 0; r < Of::ROWS; r++) {
        const ExcludedKeys own(excluded, min(row0 + Of::row_of(r), rows.last));
        typename Of::Row &score = Of::row(s, r, 0);
        EACH_ELEMENT
        for (int e = 0; e < Of::ELEMENTS; e++) score[e] = own.has(key0 + Of::column(0, e)) ? -INFINITY : score[e];
    }
}

// ---- scores whose rows are keys and whose columns are queries

// docs: doc_start of the columns that this thread holds; key0 and query0: of the first row and column.
template <typename Scores>
__device__ __forceinline__ void mask_keys_transposed(Scores &s, const int *docs, int key0, int query0) {
    using Of = Held<Scores>;
#pragma unroll
    for (int r = 0; r < Of::ROWS; r++) {
        const int key = key0 + Of::row_of(r);
        typename Of::Row &score = Of::row(s, r, 0);
        EACH_ELEMENT
        for (int e = 0; e < Of::ELEMENTS; e++)
            score[e] = sees(query0 + Of::column(0, e), docs[e], key) ? score[e] : -INFINITY;
    }
}

template <typename Scores>
__device__ __forceinline__ void exclude_keys_transposed(Scores &s, const int *excluded, int key0, int query0, int T) {
    using Of = Held<Scores>;
    EACH_ELEMENT
    for (int e = 0; e < Of::ELEMENTS; e++) {
        const ExcludedKeys own(excluded, min(query0 + Of::column(0, e), T - 1));
#pragma unroll
        for (int r = 0; r < Of::ROWS; r++) {
            float &score = Of::row(s, r, 0)[e];
            score = own.has(key0 + Of::row_of(r)) ? -INFINITY : score;
        }
    }
}

#endif
