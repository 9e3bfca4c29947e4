// What the decoder (generate/decoder.h) takes of a model: it runs the same layers, a token at a time over a cache.
#ifndef LLMC_MODEL_LLAMA3_NETWORK_H
#define LLMC_MODEL_LLAMA3_NETWORK_H

#include <cuda_runtime.h>
#include <stdint.h>

#include "device/types.h"
#include "kernels/attention_shape.h"
#include "model/parameters.h"

typedef struct Llama3 Llama3;

cudaStream_t llama3_stream(const Llama3 *m);  // on which all of the model's work is queued
const floatX *llama3_params(const Llama3 *m); // [num_elements], laid out as the parameter table says
const float *llama3_rope(const Llama3 *m);    // [llama3_max_tokens, HD/2, 2]

AttentionShape llama3_attention_shape(const Llama3 *m, int B, int T); // of the model's heads, B rows of T tokens

void llama3_wait_for_weights(Llama3 *m); // work queued from here on may use them

// A layer's product y [N,OC] = x [N,IC] · w^T, adapters included. most: 0, or that of matmul_same_rows (device/matmul.h). Where
// there are adapters, N and most are at most B*T.
void llama3_project(Llama3 *m, floatX *y, const floatX *x, int layer, LayerUnit unit, int N, int most);

// Forward pass over one text of n tokens (1 <= n <= llama3_max_tokens). Returns the last norm's output, [n, C] on the device,
// valid until the model's next pass. visit is called after each layer with its rotated queries, keys and values, [n, (NH + 2 NKV) HD].
typedef void (*LayerVisit)(void *context, int layer, const floatX *qkv);
const floatX *llama3_forward_text(Llama3 *m, const int32_t *tokens, int n, LayerVisit visit, void *context);

#endif
