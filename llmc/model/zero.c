// What ranks exchange of a model: gradients, bucket by bucket while the backward pass goes on, and parameters while the
// next forward pass does (parallel.h). With one rank nothing is exchanged and this is where gradients lie.
#include "model/llama3_internal.h"

#include <stdlib.h>

#include "kernels/grad_norm.h"

static size_t bucket_length(const Llama3 *m, int bucket) {
    return m->table.buckets[bucket].end - m->table.buckets[bucket].begin;
}

static size_t piece_length(const Llama3 *m, int bucket) { return bucket_length(m, bucket) / (size_t)m->table.shards; }

// Where a shard's piece of the bucket begins in the shard's arrays.
static size_t shard_offset(const Llama3 *m, int bucket) {
    return m->table.buckets[bucket].begin / (size_t)m->table.shards;
}

// ... and in the flat arrays.
static size_t flat_offset(const Llama3 *m, int bucket) {
    return m->table.buckets[bucket].begin + (size_t)m->shape.parallel.shard * piece_length(m, bucket);
}

static float *own_gradients(const Llama3 *m, int bucket) {
    return m->grads + (m->gradient_shards ? shard_offset(m, bucket) : flat_offset(m, bucket));
}

// ---- memory

static int slot_of(const Llama3 *m, int bucket) {
    if (bucket == m->table.norm_bucket) return SLOT_NORMS;
    if (bucket == 0 || bucket == m->table.head_bucket) return SLOT_VOCABULARY;
    return bucket % 2 ? SLOT_ODD_LAYERS : SLOT_EVEN_LAYERS;
}

static void plan_slots(Llama3 *m) {
    size_t longest[GRADIENT_SLOTS] = {0};
    for (int b = 0; b < m->table.num_buckets; b++) {
        size_t *slot = &longest[slot_of(m, b)], length = bucket_length(m, b);
        if (*slot < length) *slot = length;
    }
    for (int s = 0; s < GRADIENT_SLOTS; s++) {
        m->slots[s].whole = memory_take(&m->memory, MEMORY_COMMUNICATION, longest[s] * sizeof(float));
        m->slots[s].piece =
            memory_take(&m->memory, MEMORY_COMMUNICATION, longest[s] / (size_t)m->table.shards * sizeof(float));
    }
}

void shards_plan(Llama3 *m) {
    const size_t n = m->gradient_shards ? m->table.num_shard_elements : m->table.num_trained_elements;
    m->grads = memory_take(&m->memory, MEMORY_GRADIENTS, n * sizeof(float));
    if (m->gradient_shards) plan_slots(m);
}

static void prepare_bucket(Llama3 *m, int b) {
    BucketState *state = &m->buckets[b];
    const char *name = m->table.buckets[b].label;
    snprintf(state->gradients, sizeof state->gradients, "%s gradients", name);
    snprintf(state->replicas, sizeof state->replicas, "%s gradients of replicas", name);
    snprintf(state->parameters, sizeof state->parameters, "%s parameters", name);
    state->reduce = comm_op_create(state->gradients);
    state->replicate = comm_op_create(state->replicas);
    state->gather = comm_op_create(state->parameters);
    if (!m->gradient_shards) state->grads = m->grads + m->table.buckets[b].begin;
}

int shards_prepare(Llama3 *m, Error *err) {
    m->buckets = calloc((size_t)m->table.num_buckets, sizeof *m->buckets);
    if (!m->buckets) return fail_fault(err, "no memory for the state of %d buckets", m->table.num_buckets);
    for (int b = 0; b < m->table.num_buckets; b++) prepare_bucket(m, b);
    for (int s = 0; s < GRADIENT_SLOTS; s++) {
        m->slots[s].reduce = comm_op_create("gradients of a micro-batch");
        m->slots[s].bucket = -1;
    }
    m->sum_loss = comm_op_create("loss");
    m->sum_squares = comm_op_create("gradient norm");
    m->replicate_shard = comm_op_create("gradients of replicas");
    return 0;
}

void shards_free(Llama3 *m) {
    for (int b = 0; m->buckets && b < m->table.num_buckets; b++) {
        comm_op_destroy(m->buckets[b].reduce);
        comm_op_destroy(m->buckets[b].replicate);
        comm_op_destroy(m->buckets[b].gather);
    }
    for (int s = 0; s < GRADIENT_SLOTS; s++) comm_op_destroy(m->slots[s].reduce);
    comm_op_destroy(m->sum_loss);
    comm_op_destroy(m->sum_squares);
    comm_op_destroy(m->replicate_shard);
    free(m->buckets);
}

// ---- gradients

// A collective has begun: without overlap the computation waits for it at once.
static void begun(Llama3 *m, CommOp *op) {
    if (!m->shape.parallel.overlap) comm_op_wait(op, m->stream);
}

// What is under way of a step that was begun and never updated the weights ends, and is no part of the next one.
static void abandon_step(Llama3 *m) {
    for (int b = 0; b < m->table.num_buckets; b++) {
        comm_op_wait(m->buckets[b].reduce, m->stream);
        comm_op_wait(m->buckets[b].replicate, m->stream);
        m->buckets[b].reduced = false;
    }
    for (int s = 0; s < GRADIENT_SLOTS; s++) {
        comm_op_wait(m->slots[s].reduce, m->stream);
        m->slots[s].bucket = -1;
    }
}

void shards_begin_step(Llama3 *m) {
    const size_t n = m->gradient_shards ? m->table.num_shard_elements : m->table.num_trained_elements;
    abandon_step(m);
    cuda_check(cudaMemsetAsync(m->grads, 0, n * sizeof(float), m->stream));
}

// The sum that is on its way becomes part of this shard's gradients, and the slot is free.
static void empty_slot(Llama3 *m, GradientSlot *slot) {
    if (slot->bucket < 0) return;
    comm_op_wait(slot->reduce, m->stream);
    add_gradients(own_gradients(m, slot->bucket), slot->piece, piece_length(m, slot->bucket), m->stream);
    slot->bucket = -1;
}

void shards_open(Llama3 *m, int bucket) {
    if (!m->gradient_shards || bucket_length(m, bucket) == 0) return;
    GradientSlot *slot = &m->slots[slot_of(m, bucket)];
    empty_slot(m, slot);
    cuda_check(cudaMemsetAsync(slot->whole, 0, bucket_length(m, bucket) * sizeof(float), m->stream));
    m->buckets[bucket].grads = slot->whole;
}

static void reduce(Llama3 *m, int bucket) {
    const Parallel *p = &m->shape.parallel;
    BucketState *state = &m->buckets[bucket];
    const size_t count = piece_length(m, bucket);
    float *own = own_gradients(m, bucket);
    state->reduced = true;
    if (count == 0) return;
    if (p->shard_comm) {
        comm_reduce_scatter(p->shard_comm, own, state->grads, count, state->reduce, m->stream);
        begun(m, state->reduce);
    }
    if (p->replica_comm) {
        comm_all_reduce(p->replica_comm, own, count, state->replicate, m->stream);
        begun(m, state->replicate);
    }
}

static void reduce_micro_batch(Llama3 *m, int bucket) {
    GradientSlot *slot = &m->slots[slot_of(m, bucket)];
    comm_reduce_scatter(m->shape.parallel.shard_comm, slot->piece, slot->whole, piece_length(m, bucket), slot->reduce,
                        m->stream);
    begun(m, slot->reduce);
    slot->bucket = bucket;
    m->buckets[bucket].grads = NULL;
}

void shards_close(Llama3 *m, int bucket) {
    if (bucket_length(m, bucket) == 0) return;
    if (m->gradient_shards)
        reduce_micro_batch(m, bucket);
    else if (m->last_micro_batch)
        reduce(m, bucket);
}

float *shards_gradient(Llama3 *m, int bucket, size_t offset) {
    return m->buckets[bucket].grads + (offset - m->table.buckets[bucket].begin);
}

static void finish_gradient_shards(Llama3 *m) {
    for (int s = 0; s < GRADIENT_SLOTS; s++) empty_slot(m, &m->slots[s]);
    if (!m->shape.parallel.replica_comm) return;
    comm_all_reduce(m->shape.parallel.replica_comm, m->grads, m->table.num_shard_elements, m->replicate_shard,
                    m->stream);
    comm_op_wait(m->replicate_shard, m->stream);
}

void shards_finish_gradients(Llama3 *m) {
    if (m->gradient_shards) {
        finish_gradient_shards(m);
        return;
    }
    for (int b = 0; b < m->table.num_buckets; b++) {
        BucketState *state = &m->buckets[b];
        if (!state->reduced) reduce(m, b); // a step that had fewer micro-batches
        comm_op_wait(state->reduce, m->stream);
        comm_op_wait(state->replicate, m->stream);
    }
}

void shards_sum_result(Llama3 *m) {
    const Parallel *p = &m->shape.parallel;
    if (p->world) comm_all_reduce(p->world, m->result->sums, PREFERENCE_SUMS, m->sum_loss, m->stream);
    if (p->shard_comm) comm_all_reduce(p->shard_comm, &m->result->square_sum, 1, m->sum_squares, m->stream);
    comm_op_wait(m->sum_loss, m->stream);
    comm_op_wait(m->sum_squares, m->stream);
}

// ---- parameters

ShardPiece shards_piece(Llama3 *m, int range) {
    const ParameterRange *r = &m->table.ranges[range];
    const size_t own = flat_offset(m, r->bucket), own_end = own + piece_length(m, r->bucket);
    const size_t begin = r->begin > own ? r->begin : own, end = r->end < own_end ? r->end : own_end;
    if (begin >= end) return (ShardPiece){.count = 0};
    const size_t within = begin - own, at = shard_offset(m, r->bucket) + within;
    return (ShardPiece){.params = m->params + begin,
                        .grads = own_gradients(m, r->bucket) + within,
                        .master = m->master + at,
                        .moment1 = m->moment1 + at,
                        .moment2 = m->moment2 + at,
                        .average = m->average ? m->average + at : NULL,
                        .count = end - begin};
}

void shards_gather(Llama3 *m, int bucket) {
    const Parallel *p = &m->shape.parallel;
    if (!p->shard_comm || bucket_length(m, bucket) == 0) return;
    comm_all_gather(p->shard_comm, m->params + m->table.buckets[bucket].begin, piece_length(m, bucket),
                    m->buckets[bucket].gather, m->stream);
    begun(m, m->buckets[bucket].gather);
}

void shards_await(Llama3 *m, int bucket) {
    if (m->buckets) comm_op_wait(m->buckets[bucket].gather, m->stream);
}

void shards_await_all(Llama3 *m) {
    for (int b = 0; b < m->table.num_buckets; b++) shards_await(m, b);
}
