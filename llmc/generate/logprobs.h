// Log-probabilities of tokens from logits, on the host.
#ifndef LLMC_GENERATE_LOGPROBS_H
#define LLMC_GENERATE_LOGPROBS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// The log-probability, in nats, of `token` under softmax(logits), and the `tops` (<= vocab_size) most probable tokens by
// falling probability, of equals by id. A logit that is not a number counts as minus infinity.
float logprobs_of(const float *logits, int vocab_size, int32_t token, int tops, int32_t *top_ids, float *top_logprobs);

#ifdef __cplusplus
}
#endif
#endif
