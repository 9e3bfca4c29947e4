// The whole model in plain C and double precision, one loop nest an operation: to be read beside the paper
// (The Llama 3 Herd of Models, section 3.2), and what the kernels and the training step are compared with. No
// kernels, no devices, no speed: for models of some thousand weights and sequences of some dozen tokens.
//
// Parameters and gradients are flat arrays of doubles in the layout of the parameter table, in host memory.
#ifndef LLMC_ORACLE_H
#define LLMC_ORACLE_H

#include "base/error.h"
#include "loader/batch.h"
#include "kernels/adamw.h"
#include "model/config.h"
#include "model/parameters.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const LlamaConfig *config;
    const ParameterTable *table;
    const double *params; // [table->num_elements]
} OracleModel;

// One micro-batch of B rows of T tokens (batch->order is not read).
// *loss += sum of the targets' losses / num_targets, in nats; grads [table->num_elements] += its gradient.
// Errors: 1 (memory).
int oracle_forward_backward(const OracleModel *model, const Batch *batch, int B, int T, int64_t num_targets,
                               double *loss, double *grads, Error *err);

// logits [T, vocab_size] = those after each of T tokens of one document. Errors: 1 (memory).
int oracle_logits(const OracleModel *model, const int32_t *tokens, int T, double *logits, Error *err);

// L2 norm of all gradients together.
double oracle_norm(const ParameterTable *table, const double *grads);

// One step of AdamW (Loshchilov and Hutter 2019) on gradients that are first scaled to step->max_grad_norm if
// their norm is larger. params, m, v [table->num_elements] are updated.
void oracle_adamw(const ParameterTable *table, double *params, double *m, double *v, const double *grads,
                     const AdamWStep *step);

#ifdef __cplusplus
}
#endif
#endif
