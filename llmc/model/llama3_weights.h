// A model's weights, what the optimizer keeps of them, and their mean over steps: in and out.
#ifndef LLMC_MODEL_LLAMA3_WEIGHTS_H
#define LLMC_MODEL_LLAMA3_WEIGHTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "device/types.h"
#include "model/llama3_create.h"
#include "model/training_array.h"

#ifdef __cplusplus
extern "C" {
#endif

// Seeded initial weights as the parameter table says. Clears the moments.
void llama3_init_weights(Llama3 *m, uint64_t seed);

// The same of adapters alone, whose moments stay as they are.
void llama3_init_adapters(Llama3 *m, uint64_t seed);

// ---- parameters

// values: host, rows*cols of the table's tensor `index`, floatX. Setting also sets the master weight and clears the
// tensor's moments; padding is zeroed.
void llama3_set_parameter(Llama3 *m, int index, const floatX *values);
void llama3_get_parameter(Llama3 *m, int index, floatX *values);

// Elements [first, first + count) of the tensor (row-major, count > 0), so that a tensor of any size goes through a small
// piece of host memory. Master weights and moments stay as they are: llama3_reset_training or the training pieces below
// follow. Every rank holds all parameters and sets them all.
void llama3_set_parameter_piece(Llama3 *m, int index, size_t first, size_t count, const floatX *values);
void llama3_get_parameter_piece(Llama3 *m, int index, size_t first, size_t count, floatX *values);

// sums[table count]: of each tensor as floatX (kernels/checksum.h). The same on ranks that hold the same bits, however
// training is divided. Training only. Waits.
void llama3_checksums(Llama3 *m, uint64_t *sums);

// One of all tensors: the sum of sums[i] * (2 i + 1) modulo 2^64.
uint64_t llama3_checksum(Llama3 *m);

// ---- what the optimizer keeps of each parameter; of a model made for training

int llama3_training_arrays(const Llama3 *m); // how many TrainingArrays it keeps, from the first on

// Values go in and out in fp32, whatever they are kept in: bf16 numbers are widened, and rounded to nearest. Without master
// weights (MASTER_NONE) they are the parameters, and setting them does nothing.

// Master weights become the parameters, widened; moments and mean become zero. Queued on the device.
void llama3_reset_training(Llama3 *m);

// Elements as above; those that are not this shard's (parameter_piece) are left out. The parameter itself stays. values may
// lie at any address.
void llama3_set_training_piece(Llama3 *m, TrainingArray array, int index, size_t first, size_t count,
                               const float *values);
void llama3_get_training_piece(Llama3 *m, TrainingArray array, int index, size_t first, size_t count,
                               float *values); // all of them must be this shard's

// to: host, this shard's flat arrays [llama3_training_arrays][num_shard_elements], padding included (=). Waits for the
// device.
void llama3_get_training(Llama3 *m, float *to);

// As accumulated in this step on this rank, before clipping; not of gradient shards (zero 2), nor of units without a
// trained tensor (parameters.h).
void llama3_get_gradient(Llama3 *m, int index, float *values);

// ---- the mean of the weights over steps; needs shape.average

// The present master weights are one more sample, the samples-th (from 1), of their running mean. Queued on the device.
void llama3_average(Llama3 *m, int64_t samples);

// The parameters become the mean, rounded (which needs a sample), or the master weights again. Collective. Between the two
// calls there is no training step and no checkpoint.
void llama3_use_average(Llama3 *m, bool use);

#ifdef __cplusplus
}
#endif
#endif
