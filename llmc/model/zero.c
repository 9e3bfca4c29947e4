#include "model/zero.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/grad_norm.h"

// A bucket's collectives.
typedef struct {
    char gradients[64], replicas[64], parameters[64]; // labels
    CommOp *reduce, *replicate, *gather;
    float *grads; // its gradients' first element; of divided gradients while they are being computed
    bool begun;   // in this step a micro-batch has written gradients
    bool later;   // so had one before the running micro-batch
    bool reduced; // in this step the sum over the ranks has begun
    bool final;   // in this step it has ended, or there is none
} BucketState;

// With divided gradients: where a bucket's gradients of one micro-batch are computed and reduced.
typedef struct {
    float *whole, *piece; // [bucket], [bucket / shards] = the sum over the ranks of this shard's piece
    CommOp *reduce;
    int bucket; // whose sum is on its way, to `piece` or, in a step's first micro-batch, to the gradients; -1: none
} GradientSlot;
enum { SLOT_EVEN_LAYERS, SLOT_ODD_LAYERS, SLOT_VOCABULARY, SLOT_NORMS, GRADIENT_SLOTS };

// 32 MiB in bf16: what travels at a time. A guess, meant to be large beside a message's latency for each of 64 ranks too.
enum { WIRE_ELEMENTS = 1 << 24 };

struct Zero {
    const ParameterTable *table;
    const Parallel *parallel;
    cudaStream_t stream;
    floatX *params;
    bool divided;         // each rank keeps the gradients of its shard alone
    bool exchanged;       // other ranks have gradients too
    float *grads;         // [num_trained_elements], or divided [num_shard_elements]
    BucketState *buckets; // [num_buckets]
    GradientSlot slots[GRADIENT_SLOTS];
    Bf16Wire wire_memory; // shared by all buckets: the ranks' collectives are carried one after the other
    const Bf16Wire *wire; // NULL: gradients travel as fp32
    CommOp *sum_loss, *sum_squares, *replicate_shard;
};

static size_t bucket_length(const Zero *z, int bucket) {
    return z->table->buckets[bucket].end - z->table->buckets[bucket].begin;
}

static size_t piece_length(const Zero *z, int bucket) { return bucket_length(z, bucket) / (size_t)z->table->shards; }

// Where a shard's piece of the bucket begins in the shard's arrays.
static size_t shard_offset(const Zero *z, int bucket) {
    return z->table->buckets[bucket].begin / (size_t)z->table->shards;
}

// ... and in the flat arrays.
static size_t flat_offset(const Zero *z, int bucket) {
    return z->table->buckets[bucket].begin + (size_t)z->parallel->shard * piece_length(z, bucket);
}

static float *own_gradients(const Zero *z, int bucket) {
    return z->grads + (z->divided ? shard_offset(z, bucket) : flat_offset(z, bucket));
}

static size_t gradient_count(const Zero *z) {
    return z->divided ? z->table->num_shard_elements : z->table->num_trained_elements;
}

// ---- memory

int zero_create(Zero **out, const ParameterTable *table, const Parallel *parallel, Error *err) {
    Zero *z = calloc(1, sizeof *z);
    if (z) z->buckets = calloc((size_t)table->num_buckets, sizeof *z->buckets);
    if (!z || !z->buckets) {
        free(z);
        return fail_fault(err, "no memory for the state of %d buckets", table->num_buckets);
    }
    z->table = table;
    z->parallel = parallel;
    z->divided = parallel->zero == 2 && parallel->shards > 1;
    if (parallel->grad_reduce == GRAD_REDUCE_BF16 && parallel->shards * parallel->replicas > 1)
        z->wire = &z->wire_memory;
    z->exchanged = z->divided || parallel->shard_comm || parallel->replica_comm;
    *out = z;
    return 0;
}

void zero_destroy(Zero *z) {
    if (!z) return;
    for (int b = 0; b < z->table->num_buckets; b++) {
        comm_op_destroy(z->buckets[b].reduce);
        comm_op_destroy(z->buckets[b].replicate);
        comm_op_destroy(z->buckets[b].gather);
    }
    for (int s = 0; s < GRADIENT_SLOTS; s++) comm_op_destroy(z->slots[s].reduce);
    comm_op_destroy(z->sum_loss);
    comm_op_destroy(z->sum_squares);
    comm_op_destroy(z->replicate_shard);
    free(z->buckets);
    free(z);
}

// Layers take turns, so that one layer's sums are on their way while the next layer's gradients are computed.
static int slot_of(const Zero *z, int bucket) {
    if (bucket == z->table->norm_bucket) return SLOT_NORMS;
    if (bucket == 0 || bucket == z->table->head_bucket) return SLOT_VOCABULARY;
    return bucket % 2 ? SLOT_ODD_LAYERS : SLOT_EVEN_LAYERS;
}

static void plan_slots(Zero *z, MemoryPlan *memory) {
    size_t longest[GRADIENT_SLOTS] = {0};
    for (int b = 0; b < z->table->num_buckets; b++) {
        size_t *slot = &longest[slot_of(z, b)], length = bucket_length(z, b);
        if (*slot < length) *slot = length;
    }
    for (int s = 0; s < GRADIENT_SLOTS; s++) {
        z->slots[s].whole = memory_take(memory, MEMORY_COMMUNICATION, longest[s] * sizeof(float));
        z->slots[s].piece =
            memory_take(memory, MEMORY_COMMUNICATION, longest[s] / (size_t)z->table->shards * sizeof(float));
    }
}

static void plan_wire(Zero *z, MemoryPlan *memory) {
    const Parallel *p = z->parallel;
    Bf16Wire *wire = &z->wire_memory;
    size_t longest = 0;
    for (int b = 0; b < z->table->num_buckets; b++)
        if (longest < bucket_length(z, b)) longest = bucket_length(z, b);
    if (longest > WIRE_ELEMENTS) longest = WIRE_ELEMENTS;
    wire->capacity = longest + 8 * (size_t)(p->shards * p->replicas); // what is over when it is divided in units of 8
    wire->send = memory_take(memory, MEMORY_COMMUNICATION, wire->capacity * sizeof *wire->send);
    wire->receive = memory_take(memory, MEMORY_COMMUNICATION, wire->capacity * sizeof *wire->receive);
}

void zero_plan(Zero *z, MemoryPlan *memory) {
    z->grads = memory_take(memory, MEMORY_GRADIENTS, gradient_count(z) * sizeof(float));
    if (z->divided) plan_slots(z, memory);
    if (z->wire) plan_wire(z, memory);
}

static void start_bucket(Zero *z, int b) {
    BucketState *state = &z->buckets[b];
    const char *name = z->table->buckets[b].label;
    snprintf(state->gradients, sizeof state->gradients, "%s gradients", name);
    snprintf(state->replicas, sizeof state->replicas, "%s gradients of replicas", name);
    snprintf(state->parameters, sizeof state->parameters, "%s parameters", name);
    state->reduce = comm_op_create(state->gradients);
    state->replicate = comm_op_create(state->replicas);
    state->gather = comm_op_create(state->parameters);
    if (!z->divided) state->grads = z->grads + z->table->buckets[b].begin;
}

static void clear(const Zero *z, float *grads, size_t count) {
    if (count) cuda_check(cudaMemsetAsync(grads, 0, count * sizeof *grads, z->stream));
}

void zero_start(Zero *z, floatX *params, cudaStream_t stream) {
    z->params = params;
    z->stream = stream;
    for (int b = 0; b < z->table->num_buckets; b++) start_bucket(z, b);
    // what no micro-batch writes stays zero: padding, and norms that the backward pass does not come to
    clear(z, z->grads, gradient_count(z));
    if (z->divided) clear(z, z->slots[SLOT_NORMS].whole, bucket_length(z, z->table->norm_bucket));
    for (int s = 0; s < GRADIENT_SLOTS; s++) {
        z->slots[s].reduce = comm_op_create("gradients of a micro-batch");
        z->slots[s].bucket = -1;
    }
    z->sum_loss = comm_op_create("loss");
    z->sum_squares = comm_op_create("gradient norm");
    z->replicate_shard = comm_op_create("gradients of replicas");
}

// ---- gradients

// A collective has begun: without overlap the computation waits for it at once.
static void begun(Zero *z, CommOp *op) {
    if (!z->parallel->overlap) comm_op_wait(op, z->stream);
}

// What is still under way of a step that was begun and never updated the weights comes to its end, and is no part of the
// next step.
static void abandon_step(Zero *z) {
    for (int b = 0; b < z->table->num_buckets; b++) {
        comm_op_wait(z->buckets[b].reduce, z->stream);
        comm_op_wait(z->buckets[b].replicate, z->stream);
        z->buckets[b].reduced = z->buckets[b].begun = z->buckets[b].final = false;
    }
    for (int s = 0; s < GRADIENT_SLOTS; s++) {
        comm_op_wait(z->slots[s].reduce, z->stream);
        z->slots[s].bucket = -1;
    }
}

void zero_begin_step(Zero *z) { abandon_step(z); }

bool zero_has_gradients(const Zero *z) {
    for (int b = 0; b < z->table->num_buckets; b++)
        if (z->buckets[b].begun) return true;
    return false;
}

size_t zero_state_bytes(const Zero *z) { return (size_t)z->table->num_buckets * sizeof *z->buckets; }
void zero_get_state(const Zero *z, void *state) { memcpy(state, z->buckets, zero_state_bytes(z)); }
void zero_set_state(Zero *z, const void *state) { memcpy(z->buckets, state, zero_state_bytes(z)); }

// The sum that is on its way becomes part of this shard's gradients, and the slot is free.
static void empty_slot(Zero *z, GradientSlot *slot) {
    if (slot->bucket < 0) return;
    comm_op_wait(slot->reduce, z->stream);
    if (z->buckets[slot->bucket].later)
        add_gradients(own_gradients(z, slot->bucket), slot->piece, piece_length(z, slot->bucket), z->stream);
    slot->bucket = -1;
}

// The padding after the bucket's tensors, where its slot had gradients of other buckets.
static void clear_padding(const Zero *z, int bucket) {
    const ParameterTable *table = z->table;
    if (bucket == table->norm_bucket) return; // alone in its slot
    for (const ParameterTensor *t = table->tensors; t < table->tensors + table->count; t++) {
        if (t->bucket != bucket || t->offset >= table->num_trained_elements) continue;
        const size_t written = t->offset + (size_t)t->padded_rows * (size_t)t->cols;
        clear(z, bucket_gradient(z, bucket, written), t->end - written);
    }
}

void grad_bucket_begin(Zero *z, int bucket) {
    BucketState *state = &z->buckets[bucket];
    if (bucket_length(z, bucket) == 0) return;
    if (z->divided) {
        GradientSlot *slot = &z->slots[slot_of(z, bucket)];
        empty_slot(z, slot);
        state->grads = slot->whole;
        clear_padding(z, bucket);
    }
    state->later = state->begun;
    state->begun = true;
}

// The step's gradients of the bucket: over the shard group to the rank that owns the piece, then over the replicas.
static void reduce(Zero *z, int bucket) {
    const Parallel *p = z->parallel;
    BucketState *state = &z->buckets[bucket];
    const size_t count = piece_length(z, bucket);
    float *own = own_gradients(z, bucket);
    state->reduced = true;
    if (count == 0) return;
    if (p->shard_comm) {
        comm_reduce_scatter(p->shard_comm, own, state->grads, count, z->wire, state->reduce, z->stream);
        begun(z, state->reduce);
    }
    if (p->replica_comm) {
        comm_all_reduce(p->replica_comm, own, count, z->wire, state->replicate, z->stream);
        begun(z, state->replicate);
    }
}

static void reduce_micro_batch(Zero *z, int bucket) {
    GradientSlot *slot = &z->slots[slot_of(z, bucket)];
    BucketState *state = &z->buckets[bucket];
    comm_reduce_scatter(z->parallel->shard_comm, state->later ? slot->piece : own_gradients(z, bucket), slot->whole,
                        piece_length(z, bucket), z->wire, slot->reduce, z->stream);
    begun(z, slot->reduce);
    slot->bucket = bucket;
    state->grads = NULL;
}

bool grad_bucket_ready(Zero *z, int bucket, bool last_micro_batch) {
    if (bucket_length(z, bucket) == 0) return false;
    if (z->divided)
        reduce_micro_batch(z, bucket);
    else if (last_micro_batch)
        reduce(z, bucket);
    return z->buckets[bucket].final = last_micro_batch && !z->exchanged;
}

float *bucket_gradient(const Zero *z, int bucket, size_t offset) {
    return z->buckets[bucket].grads + (offset - z->table->buckets[bucket].begin);
}

bool bucket_accumulates(const Zero *z, int bucket) { return !z->divided && z->buckets[bucket].later; }

// Of a step without a micro-batch.
static void clear_untouched(Zero *z, int bucket) {
    if (z->buckets[bucket].begun) return;
    if (z->divided)
        clear(z, own_gradients(z, bucket), piece_length(z, bucket));
    else
        clear(z, z->buckets[bucket].grads, bucket_length(z, bucket));
}

// All buckets at once.
static void finish_divided(Zero *z) {
    for (int b = 0; b < z->table->num_buckets; b++) {
        clear_untouched(z, b);
        z->buckets[b].reduced = true;
    }
    for (int s = 0; s < GRADIENT_SLOTS; s++) empty_slot(z, &z->slots[s]);
    if (!z->parallel->replica_comm) return;
    comm_all_reduce(z->parallel->replica_comm, z->grads, z->table->num_shard_elements, z->wire, z->replicate_shard,
                    z->stream);
    comm_op_wait(z->replicate_shard, z->stream);
}

bool grad_bucket_finish(Zero *z, int bucket) {
    BucketState *state = &z->buckets[bucket];
    if (state->final) return false;
    state->final = true;
    if (z->divided) {
        if (!state->reduced) finish_divided(z);
        return true;
    }
    clear_untouched(z, bucket);
    if (!state->reduced) reduce(z, bucket); // the step had fewer micro-batches than the shape says
    comm_op_wait(state->reduce, z->stream);
    comm_op_wait(state->replicate, z->stream);
    return true;
}

void zero_sum_over_ranks(Zero *z, float *loss_sums, int count, float *square_sum) {
    const Parallel *p = z->parallel;
    if (p->world) comm_all_reduce(p->world, loss_sums, (size_t)count, NULL, z->sum_loss, z->stream);
    if (p->shard_comm) comm_all_reduce(p->shard_comm, square_sum, 1, NULL, z->sum_squares, z->stream);
    comm_op_wait(z->sum_loss, z->stream);
    comm_op_wait(z->sum_squares, z->stream);
}

const float *zero_whole_gradients(const Zero *z) { return z->divided ? NULL : z->grads; }

// ---- parameters

ZeroPiece zero_piece(const Zero *z, int range) {
    const ParameterRange *r = &z->table->ranges[range];
    const size_t own = flat_offset(z, r->bucket), own_end = own + piece_length(z, r->bucket);
    const size_t begin = r->begin > own ? r->begin : own, end = r->end < own_end ? r->end : own_end;
    if (begin >= end) return (ZeroPiece){.count = 0};
    return (ZeroPiece){.first = begin,
                       .count = end - begin,
                       .at = shard_offset(z, r->bucket) + (begin - own),
                       .grads = own_gradients(z, r->bucket) + (begin - own)};
}

void param_gather(Zero *z, int bucket) {
    const Parallel *p = z->parallel;
    if (!p->shard_comm || bucket_length(z, bucket) == 0) return;
    comm_all_gather(p->shard_comm, z->params + z->table->buckets[bucket].begin, piece_length(z, bucket),
                    z->buckets[bucket].gather, z->stream);
    begun(z, z->buckets[bucket].gather);
}

void param_wait(Zero *z, int bucket) {
    if (z) comm_op_wait(z->buckets[bucket].gather, z->stream);
}

void param_wait_all(Zero *z) {
    for (int b = 0; z && b < z->table->num_buckets; b++) param_wait(z, b);
}
