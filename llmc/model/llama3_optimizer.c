// What the optimizer keeps of the weights: the update, and its state in and out.
#include <string.h>

#include "kernels/adamw_rounded.h"
#include "model/llama3_state.h"
#include "model/llama3_weights.h"

// ---- the update

void llama3_adamw(Llama3 *m, int bucket, ZeroPiece p) {
    const Optimizer *o = &m->optimizer;
    const StepResult *result = m->step.result;
    const AdamWStep *step = &m->step.scalars->adamw;
    const ParameterBucket *b = &m->table.buckets[bucket];
    const bool bf16_moments = m->shape.moments == MOMENTS_BF16;
    floatX *params = m->params + p.first;
    float *master = o->master ? o->master + p.at : NULL;
    char *moment1 = (char *)o->moment1 + p.at * llama3_moment_bytes(m);
    char *moment2 = (char *)o->moment2 + p.at * llama3_moment_bytes(m);
    if (master && !bf16_moments)
        adamw_update(params, master, (float *)moment1, (float *)moment2, p.grads, &result->apply, &result->grad_norm,
                     step, b->decay, p.count, m->stream);
    else // elements are counted from the bucket's first one on, so that draws do not depend on the number of shards
        adamw_rounded_update(params, master, moment1, moment2, bf16_moments, p.grads, &result->apply,
                             &result->grad_norm, step, b->decay, p.first - b->begin, (uint32_t)bucket, p.count,
                             m->stream);
}

// ---- in and out

static size_t element_bytes(const Llama3 *m, TrainingArray array) {
    return array == TRAINING_MOMENT1 || array == TRAINING_MOMENT2 ? llama3_moment_bytes(m) : sizeof(float);
}

// NULL: master weights that are not kept.
static char *array_at(const Llama3 *m, TrainingArray array, size_t at) {
    const Optimizer *o = &m->optimizer;
    void *const base = array == TRAINING_MASTER    ? o->master
                       : array == TRAINING_MOMENT1 ? o->moment1
                       : array == TRAINING_MOMENT2 ? o->moment2
                                                   : o->average;
    return base ? (char *)base + at * element_bytes(m, array) : NULL;
}

void llama3_clear_training(Llama3 *m, TrainingArray first_array, size_t at, size_t count) {
    for (int i = first_array; i < llama3_training_arrays(m); i++) {
        const TrainingArray array = (TrainingArray)i;
        char *to = array_at(m, array, at);
        if (to) cuda_check(cudaMemsetAsync(to, 0, count * element_bytes(m, array), m->stream));
    }
}

// bf16 numbers in the second half of values[count] become fp32 numbers in all of it: what is written has been read.
static void widen_in_place(float *values, size_t count) {
    const char *from = (const char *)values + count * sizeof(uint16_t);
    for (size_t i = 0; i < count; i++) {
        uint16_t half;
        memcpy(&half, from + i * sizeof half, sizeof half);
        const uint32_t bits = (uint32_t)half << 16;
        memcpy(values + i, &bits, sizeof bits);
    }
}

// To the nearest, of two the even one. x is finite.
static uint16_t round_to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Where the shard's training array would go on at `at`, in the parameters, and how many elements follow there.
static const floatX *weights_at(const Llama3 *m, size_t at, size_t *count) {
    const ParameterTable *t = &m->table;
    int b = t->num_buckets - 1;
    while (b && t->buckets[b].begin / (size_t)t->shards > at) b--;
    const size_t begin = t->buckets[b].begin, length = (t->buckets[b].end - begin) / (size_t)t->shards;
    const size_t offset = at - begin / (size_t)t->shards, left = length - offset;
    if (*count > left) *count = left;
    return m->params + begin + (size_t)m->shape.parallel.shard * length + offset;
}

static void read_weights(Llama3 *m, size_t at, size_t count, float *values) {
    param_wait_all(m->zero);
    while (count) {
        size_t piece = count;
        const floatX *from = weights_at(m, at, &piece);
        if (sizeof(floatX) == sizeof(float)) {
            llama3_download(m, values, from, piece * sizeof(float));
        } else {
            llama3_download(m, (char *)values + piece * sizeof(uint16_t), from, piece * sizeof(uint16_t));
            widen_in_place(values, piece);
        }
        at += piece, values += piece, count -= piece;
    }
}

void llama3_read_training(Llama3 *m, TrainingArray array, size_t at, size_t count, float *values) {
    const char *from = array_at(m, array, at);
    const size_t bytes = count * element_bytes(m, array), all = count * sizeof *values;
    if (!from) {
        read_weights(m, at, count, values);
        return;
    }
    llama3_download(m, (char *)values + (all - bytes), from, bytes);
    if (bytes < all) widen_in_place(values, count);
}

enum { PIECE = 1 << 12 };

void llama3_write_training(Llama3 *m, TrainingArray array, size_t at, size_t count, const void *values) {
    char *to = array_at(m, array, at);
    uint16_t rounded[PIECE];
    if (!to) return;
    if (element_bytes(m, array) == sizeof(float)) {
        cuda_check(cudaMemcpyAsync(to, values, count * sizeof(float), cudaMemcpyHostToDevice, m->stream));
        cuda_check(cudaStreamSynchronize(m->stream)); // `values` is the caller's again
    }
    for (size_t first = 0; element_bytes(m, array) < sizeof(float) && first < count; first += PIECE) {
        const size_t n = count - first < PIECE ? count - first : PIECE;
        for (size_t i = 0; i < n; i++) {
            float x;
            memcpy(&x, (const char *)values + (first + i) * sizeof x, sizeof x);
            rounded[i] = round_to_bf16(x);
        }
        cuda_check(cudaMemcpyAsync(to + first * sizeof *rounded, rounded, n * sizeof *rounded, cudaMemcpyHostToDevice,
                                   m->stream));
        cuda_check(cudaStreamSynchronize(m->stream));
    }
}
