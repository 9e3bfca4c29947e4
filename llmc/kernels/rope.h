// Rotary position embedding (Su et al. 2021) on packed queries, keys and values, with Llama 3.1's scaling of
// frequencies. Halves layout, as in Hugging Face weights: element i of a head is paired with element i + HD/2.
#ifndef LLMC_KERNELS_ROPE_H
#define LLMC_KERNELS_ROPE_H

#include <cuda_runtime.h>

#include "device/types.h"
#include "kernels/attention_shape.h"

#ifdef __cplusplus
extern "C" {
#endif

// Llama 3.1's scaling (rope_type "llama3"): wavelengths above original_max_position / low_freq_factor are stretched by
// factor, those below original_max_position / high_freq_factor are kept, between them the two are blended.
typedef struct {
    double factor, low_freq_factor, high_freq_factor;
    int original_max_position;
} RopeScaling;

// table [T, HD/2, 2] = cosine and sine of t * frequency(i), in HOST memory. scaling NULL: none. HD even.
void rope_table(float *table, int T, int HD, double theta, const RopeScaling *scaling);

// Rotates the query and key heads of qkv [B, T, (NH + 2 NKV) HD] in place; values stay as they are. The position of token
// t of a row is t - doc_start[t], less the number of keys that are excluded from it: so an answer stands right after its
// prompt, whatever other answers lie between them. table: as rope_table makes it, on the device.
void rope_forward(floatX *qkv, const float *table, AttentionMask mask, AttentionShape shape, cudaStream_t stream);

// The gradient: the rotation back, in place on dqkv.
void rope_backward(floatX *dqkv, const float *table, AttentionMask mask, AttentionShape shape, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
