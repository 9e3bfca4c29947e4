// What ranks exchange of a model (ZeRO; parallel.h): gradients, bucket by bucket while the backward pass goes on, and
// parameters while the next forward pass does. Gradients of parameters lie here, also where one rank exchanges nothing.
//
//   a step: zero_begin_step → in each micro-batch for each bucket: grad_bucket_begin → gradients are written or added at
//           bucket_gradient → grad_bucket_ready
//           → grad_bucket_finish → zero_sum_over_ranks → the update of each zero_piece → param_gather for each bucket
//   the next forward pass: param_wait before the first use of a bucket
//
// A bucket in which nothing is trained takes no part in any of this.
#ifndef LLMC_MODEL_ZERO_H
#define LLMC_MODEL_ZERO_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "device/device.h"
#include "model/memory.h"
#include "model/parallel.h"
#include "model/parameters.h"

typedef struct Zero Zero;

// table and parallel must outlive it; parallel has at least one shard and one replica. Errors: 1 (memory).
int zero_create(Zero **out, const ParameterTable *table, const Parallel *parallel, Error *err);
void zero_destroy(Zero *z); // waits for what is under way; NULL is allowed

void zero_plan(Zero *z, MemoryPlan *memory); // takes the gradients and what belongs to them

// After memory is there. params: [num_elements], on whose bucket pieces the ranks work.
void zero_start(Zero *z, floatX *params, cudaStream_t stream);

// ---- gradients

void zero_begin_step(Zero *z);               // gradients of steps before are no part of this one
void grad_bucket_begin(Zero *z, int bucket); // before a micro-batch's first gradient of the bucket

// After its last one: sums over the ranks may begin. Returns whether the bucket's gradients are final: no other rank has any.
bool grad_bucket_ready(Zero *z, int bucket, bool last_micro_batch);

// Where the gradient of the parameters from the flat element `offset` on lies; it is in a bucket that has begun.
float *bucket_gradient(const Zero *z, int bucket, size_t offset);

// Whether the running micro-batch's gradients of the bucket are added (+=) to what lies there. If not, they replace it (=):
// whoever computes the gradient of a tensor first writes every element of it. Nobody writes the padding after tensors and
// gradients of frozen norms that the backward pass does not come to: these are zero.
bool bucket_accumulates(const Zero *z, int bucket);

bool zero_has_gradients(const Zero *z); // a micro-batch of this step has begun

// What is known of the buckets of one rank, so that the calls of a micro-batch whose work a graph repeats need not be
// made again: zero_state_bytes of it.
size_t zero_state_bytes(const Zero *z);
void zero_get_state(const Zero *z, void *state);
void zero_set_state(Zero *z, const void *state);

// From here on this shard's gradients of the bucket are sums over the ranks. Returns whether they were not final before. Buckets
// are best finished in the order in which they were ready.
bool grad_bucket_finish(Zero *z, int bucket);

// loss_sums [count] over all ranks, *square_sum over this shard group: device memory, in place.
void zero_sum_over_ranks(Zero *z, float *loss_sums, int count, float *square_sum);

// [num_trained_elements] of one rank, in the layout of the parameters. NULL where gradients are divided (zero 2).
const float *zero_whole_gradients(const Zero *z);

// ---- parameters

// What this shard owns of a trained range.
typedef struct {
    size_t first, count; // parameters [first, first + count); count 0: nothing
    size_t at;           // where they begin in the shard's training arrays
    float *grads;        // [count]
} ZeroPiece;
ZeroPiece zero_piece(const Zero *z, int range);

void param_gather(Zero *z,
                  int bucket); // gives this shard's new parameters of the bucket to the others, begins to take theirs
void param_wait(Zero *z, int bucket); // before the bucket's parameters are used. NULL is allowed: not trained
void param_wait_all(Zero *z);         // likewise

#endif
