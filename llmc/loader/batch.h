// A micro-batch of B rows of T tokens: the loader fills it and the model reads it.
#ifndef LLMC_LOADER_BATCH_H
#define LLMC_LOADER_BATCH_H

#include <stdint.h>

typedef struct {
    int32_t first, last; // positions in [0, B*T) of the prompt's last token before the answer, and of the answer's last
} AnswerSpan;

typedef struct {
    int32_t first, count; // answers [first, first + count) belong to one prompt, best first; count is 2 or 3
} AnswerGroup;

// The arrays are the caller's memory. `excluded` and those after it are written for comparisons alone; otherwise they may
// be NULL.
typedef struct {
    int32_t *tokens; // [B*T] inputs
    // [B*T] The next token, or -1: ignored. It is ignored where it begins another document (with document_mask); in row
    // files where it is not trained; in comparisons also where it belongs to a header or ends the turn.
    int32_t *targets;
    // [B*T] Index within the row (0..t) of the first token of t's document or row file's row; 0 without document_mask.
    int32_t *doc_start;
    int32_t *order; // [B*T] the permutation of 0..B*T-1 that sorts positions stably by token id
    // [B*T, 2] Begin and end, within the row, of the keys that t does not see although they lie after its doc_start: the
    // answers in front of its own. begin == end: none. t's RoPE position is t - doc_start - (end - begin).
    int32_t *excluded;
    AnswerSpan *answers;         // [B*T/2]
    AnswerGroup *groups;         // [B*T/2]
    int64_t *answer_numbers;     // [B*T/2] the answer's number in the whole set, 0..loader_num_answers-1
    int num_targets;             // targets that are not -1; of comparisons: pairs of answers to one prompt
    int num_answers, num_groups; // 0 but for comparisons
} Batch;

#ifdef __cplusplus
extern "C" {
#endif

// order [count] = the permutation that sorts positions stably by token id, ids being below vocab_size.
// scratch [vocab_size + 1]. O(count + vocab_size).
void batch_sort(const int32_t *tokens, int32_t *order, int count, int32_t *scratch, int vocab_size);

#ifdef __cplusplus
}
#endif
#endif
