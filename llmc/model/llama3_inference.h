// What a model says of tokens: logits, losses, log-probabilities and scores, without gradients. Each call waits for its
// result. (Text is written a token at a time by generate/decoder.h.)
#ifndef LLMC_MODEL_LLAMA3_INFERENCE_H
#define LLMC_MODEL_LLAMA3_INFERENCE_H

#include <stdint.h>

#include "model/llama3_batch.h"
#include "model/llama3_create.h"

#ifdef __cplusplus
extern "C" {
#endif

// Of a language model: logits: host, [vocab_size] after the last of n tokens (1 <= n <= llama3_max_tokens; ids within the
// vocabulary).
void llama3_logits(Llama3 *m, const int32_t *tokens, int n, float *logits);

// Of a language model, over micro-batch 0 of `rows` rows (<= B) of T tokens: losses: host, [n] = the loss, in nats, of
// targets[k] as the token after positions[k], which is in [0, rows*T) and may occur again. Of the batch, tokens, doc_start
// and excluded are read. likeliest: host, [n] = the token of the largest logit after positions[k], of equals the first, for
// which all logits are brought to the host; NULL: not wanted.
void llama3_token_losses(Llama3 *m, int rows, const int32_t *positions, const int32_t *targets, int n, float *losses,
                         int32_t *likeliest);

// Of comparisons: values: host, [num_answers] of micro-batch i = the log-probability of each answer's targets given what is
// before them, in nats; of a reward model the answer's score.
void llama3_answer_values(Llama3 *m, int i, float *values);

// The same of a reward model, where micro-batch 0 is `rows` rows of `length` tokens in place of B of T (rows <= B,
// length <= T). scores: host, [num_answers] = of the answers' last tokens. Neither targets nor groups are read.
void llama3_scores(Llama3 *m, int rows, int length, float *scores);

#ifdef __cplusplus
}
#endif
#endif
