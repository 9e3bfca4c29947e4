// Whether greedy decoding writes the right ending of an evaluation's items: token by token, as a text is generated. (eval/score.h
// says the same from one forward pass over the ending itself; rounding aside, the two agree.)
#ifndef LLMC_GENERATE_GREEDY_H
#define LLMC_GENERATE_GREEDY_H

#include <stdbool.h>

#include "base/error.h"
#include "eval/score.h"
#include "model/llama3_create.h"

#ifdef __cplusplus
extern "C" {
#endif

// exact [num_items] = whether the tokens of largest logit (of equals the first) after the item's context are those of its right
// ending, whose first wrong token ends the text. A context so long that it does not fit into the model's rows of T tokens
// with the ending, but for its last token, is cut from the left. stop, called before each item, may be NULL; once it returns true,
// the values are incomplete. Takes memory for a decoder (generate/decoder.h) of one row of T tokens. Errors: 1 (memory).
int greedy_match(bool *exact, Llama3 *m, const EvalSet *set, EvalStop stop, Error *err);

#ifdef __cplusplus
}
#endif
#endif
