// How an evaluation's items are fed to the model: as sequences of at most T tokens, several of them in a row.
//
// An ending is scored as lm-eval does it for causal models. Of context and ending, joined, all but the last
// token are the input, and the ending's tokens are the targets of the last positions. An input longer than T is
// cut from the left. A document longer than T takes several sequences: the first T tokens after the beginning
// token, then T more with the T inputs before them, and the rest again with T inputs.
//
// Consecutive endings of an item share a sequence where they fit: their context stands once, and after it what each of them
// has of its own, which does not see the others'. Endings of one token have nothing of their own.
#ifndef LLMC_EVAL_PACK_H
#define LLMC_EVAL_PACK_H

#include <stdint.h>

#include "base/error.h"
#include "eval/items.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t item, ending; // ending: the first one of those that share it
    int num_endings;      // that share it
    int64_t predicted;    // tokens of its ending that sequences before predict; 0 for several endings
    int64_t first;        // position of its first token in context and ending joined
    int length;           // inputs
    int64_t row;
    int start; // where in the row
} EvalSequence;

typedef struct {
    int T;
    int64_t num_sequences, num_rows;
    EvalSequence *sequences; // by row, then by start
    int64_t *row_first;      // [num_rows + 1] index of each row's first sequence
} EvalPacking;

// Errors: 2 (an ending of multiple choice longer than T: file, item and ending), 1 (no memory).
int evalpack_create(EvalPacking *out, const EvalSet *set, int T, Error *err);
void evalpack_free(EvalPacking *packing);

// The token at a position of the item's context and that ending, joined.
int32_t evalpack_token(const EvalSet *set, const EvalItem *item, const EvalEnding *ending, int64_t position);

// How many of the ending's tokens the sequence predicts, from the one that `predicted` counts on.
int evalpack_targets(const EvalPacking *packing, const EvalSequence *sequence, const EvalEnding *ending);

#ifdef __cplusplus
}
#endif
#endif
