// What the optimizer keeps of the weights: the update, and its state in and out.
#include <assert.h>
#include <string.h>

#include "base/bf16.h"
#include "kernels/adamw_rounded.h"
#include "model/llama3_state.h"
#include "model/llama3_weights.h"

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

// ---- memory

void llama3_plan_optimizer(Llama3 *m) {
    Optimizer *o = &m->optimizer;
    const size_t n = m->table.num_shard_elements, moment = llama3_moment_bytes(m);
    const size_t bytes[OFFLOAD_ARRAYS] = {m->shape.master_weights == MASTER_FP32 ? sizeof(float) : 0, moment, moment};
    void *arrays[OFFLOAD_ARRAYS] = {NULL, NULL, NULL};
    if (m->shape.optimizer_state == STATE_HOST) {
        offload_plan(&o->offload, &m->memory, n, bytes);
        for (int a = 0; a < OFFLOAD_ARRAYS; a++) arrays[a] = o->offload.host[a];
    } else {
        for (int a = 0; a < OFFLOAD_ARRAYS; a++)
            if (bytes[a]) arrays[a] = memory_take(&m->memory, MEMORY_OPTIMIZER, n * bytes[a]);
    }
    o->master = arrays[TRAINING_MASTER];
    o->moment1 = arrays[TRAINING_MOMENT1];
    o->moment2 = arrays[TRAINING_MOMENT2];
}

// Buckets in the order in which llama3_clip_and_adamw updates them.
int llama3_start_optimizer(Llama3 *m, Error *err) {
    const ParameterTable *t = &m->table;
    int code = 0;
    if (m->shape.optimizer_state == STATE_DEVICE) return 0;
    for (int i = 0; i < t->num_buckets; i++) {
        const int bucket = i ? i - 1 : t->norm_bucket;
        for (int r = 0; !code && r < t->num_ranges; r++) {
            const ZeroPiece p = zero_piece(m->zero, r);
            if (t->ranges[r].bucket == bucket) code = offload_add(&m->optimizer.offload, p.at, p.count, err);
        }
    }
    if (!code) offload_start(&m->optimizer.offload);
    return code;
}

// ---- the update

void llama3_begin_optimizer_step(Llama3 *m) {
    if (m->shape.optimizer_state == STATE_HOST) offload_begin(&m->optimizer.offload, m->stream);
}

void llama3_end_optimizer_step(Llama3 *m) {
    if (m->shape.optimizer_state == STATE_HOST) offload_end(&m->optimizer.offload, m->stream);
}

// arrays: master weights (NULL: none) and moments of the piece, by TrainingArray.
static void update(Llama3 *m, int bucket, ZeroPiece p, void *const arrays[OFFLOAD_ARRAYS]) {
    const StepResult *result = m->step.result;
    const AdamWStep *step = &m->step.scalars->adamw;
    const ParameterBucket *b = &m->table.buckets[bucket];
    const bool bf16_moments = m->shape.moments == MOMENTS_BF16;
    floatX *params = m->params + p.first;
    float *master = arrays[TRAINING_MASTER];
    void *moment1 = arrays[TRAINING_MOMENT1], *moment2 = arrays[TRAINING_MOMENT2];
    if (master && !bf16_moments)
        adamw_update(params, master, moment1, moment2, p.grads, &result->apply, &result->grad_norm, step, b->decay,
                     p.count, m->stream);
    else // elements are counted from the bucket's first one on, so that draws do not depend on the number of shards
        adamw_rounded_update(params, master, moment1, moment2, bf16_moments, p.grads, &result->apply,
                             &result->grad_norm, step, b->decay, p.first - b->begin, (uint32_t)bucket, p.count,
                             m->stream);
}

static void update_from_host(Llama3 *m, int bucket, ZeroPiece p) {
    void *arrays[OFFLOAD_ARRAYS];
    for (size_t done = 0; done < p.count;) {
        const OffloadPiece piece = offload_take(&m->optimizer.offload, arrays, m->stream);
        assert(piece.at == p.at + done);
        update(m, bucket, (ZeroPiece){p.first + done, piece.count, piece.at, p.grads + done}, arrays);
        offload_give(&m->optimizer.offload, m->stream);
        done += piece.count;
    }
}

void llama3_adamw(Llama3 *m, int bucket, ZeroPiece p) {
    if (m->shape.optimizer_state == STATE_HOST) {
        update_from_host(m, bucket, p);
        return;
    }
    void *const arrays[OFFLOAD_ARRAYS] = {array_at(m, TRAINING_MASTER, p.at), array_at(m, TRAINING_MOMENT1, p.at),
                                          array_at(m, TRAINING_MOMENT2, p.at)};
    update(m, bucket, p, arrays);
}

// ---- in and out

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
        const float wide = bf16_widen(half);
        memcpy(values + i, &wide, sizeof wide);
    }
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

static bool is_on_host(const Llama3 *m, TrainingArray array) {
    return array != TRAINING_AVERAGE && m->shape.optimizer_state == STATE_HOST;
}

static void read_bytes(Llama3 *m, TrainingArray array, void *to, const void *from, size_t bytes) {
    if (!is_on_host(m, array)) {
        llama3_download(m, to, from, bytes);
        return;
    }
    cuda_check(cudaStreamSynchronize(m->stream)); // which waits for the last step's copies
    memcpy(to, from, bytes);
}

static void write_bytes(Llama3 *m, TrainingArray array, void *to, const void *from, size_t bytes) {
    const bool on_host = is_on_host(m, array);
    if (!on_host) cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, m->stream));
    cuda_check(cudaStreamSynchronize(m->stream)); // `from` is the caller's again, or nothing else is done to `to`
    if (on_host) memcpy(to, from, bytes);
}

void llama3_read_training(Llama3 *m, TrainingArray array, size_t at, size_t count, float *values) {
    const char *from = array_at(m, array, at);
    const size_t bytes = count * element_bytes(m, array), all = count * sizeof *values;
    if (!from) {
        read_weights(m, at, count, values);
        return;
    }
    read_bytes(m, array, (char *)values + (all - bytes), from, bytes);
    if (bytes < all) widen_in_place(values, count);
}

enum { PIECE = 1 << 12 };

void llama3_write_training(Llama3 *m, TrainingArray array, size_t at, size_t count, const void *values) {
    char *to = array_at(m, array, at);
    uint16_t rounded[PIECE];
    if (!to) return;
    if (element_bytes(m, array) == sizeof(float)) {
        write_bytes(m, array, to, values, count * sizeof(float));
        return;
    }
    for (size_t first = 0; first < count; first += PIECE) {
        const size_t n = count - first < PIECE ? count - first : PIECE;
        for (size_t i = 0; i < n; i++) {
            float x;
            memcpy(&x, (const char *)values + (first + i) * sizeof x, sizeof x);
            rounded[i] = bf16_round(x);
        }
        write_bytes(m, array, to + first * sizeof *rounded, rounded, n * sizeof *rounded);
    }
}
