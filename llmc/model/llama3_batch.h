// Where a model's micro-batches are handed to it.
#ifndef LLMC_MODEL_LLAMA3_BATCH_H
#define LLMC_MODEL_LLAMA3_BATCH_H

#include "loader/batch.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Llama3 Llama3;

// Host memory of micro-batch i of shape.micro_batches of the running step. It belongs to the caller from llama3_create,
// llama3_result or llama3_end_step until the call that reads it: llama3_forward(m, i), or one of llama3_inference.h.
// After llama3_end_step it is another one, as copies of the step that ended may still be under way.
Batch *llama3_batch(Llama3 *m, int i);

// [B*T/2] of micro-batch i, likewise: the log-probability of each of the batch's answers under the reference model, for
// preference losses of log-probabilities. NULL without comparisons.
float *llama3_ref_logprobs(Llama3 *m, int i);

#ifdef __cplusplus
}
#endif
#endif
