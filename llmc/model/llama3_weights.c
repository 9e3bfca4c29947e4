#include "model/llama3_weights.h"

#include <math.h>
#include <stdlib.h>

#include "kernels/average.h"
#include "kernels/checksum.h"
#include "kernels/weights.h"
#include "model/llama3_state.h"

static ParameterPiece own_piece(const Llama3 *m, int index) {
    return parameter_piece(&m->table, index, m->shape.parallel.shard);
}

int llama3_training_arrays(const Llama3 *m) { return m->optimizer.average ? TRAINING_ARRAYS : TRAINING_AVERAGE; }

// ---- initial values

// Between a tensor's last element and the next tensor: padded rows, and gaps.
static void clear_padding_of(Llama3 *m, const ParameterTensor *t) {
    const size_t begin = t->offset + parameter_elements(t);
    cuda_check(cudaMemsetAsync(m->params + begin, 0, (t->end - begin) * sizeof(floatX), m->stream));
}

static void clear_all_training(Llama3 *m) { llama3_clear_training(m, TRAINING_MASTER, 0, m->table.num_shard_elements); }

void llama3_clear_padding(Llama3 *m) {
    for (int i = 0; i < m->table.count; i++) clear_padding_of(m, &m->table.tensors[i]);
    if (!m->shape.training) return;
    clear_all_training(m);
    const size_t bytes = (size_t)m->table.num_ranges * sizeof(float); // of ranges in which this shard has nothing
    cuda_check(cudaMemsetAsync(m->optimizer.square_sums, 0, bytes, m->stream));
}

static void init_tensor(Llama3 *m, int index, uint64_t seed) {
    const ParameterTensor *t = &m->table.tensors[index];
    const ParameterPiece own = m->optimizer.master ? own_piece(m, index) : (ParameterPiece){0};
    floatX *params = m->params + t->offset;
    float *master = m->optimizer.master ? m->optimizer.master + own.at : NULL;
    float std = (float)m->config.initializer_range;
    if (t->init == INIT_RESIDUAL) std /= sqrtf(2.0f * (float)m->config.num_hidden_layers);
    if (t->init == INIT_ONES || t->init == INIT_ZEROS)
        weights_init_constant(params, master, own.first, own.count, parameter_elements(t),
                              t->init == INIT_ONES ? 1.0f : 0.0f, m->stream);
    else if (t->init == INIT_KAIMING)
        weights_init_uniform(params, master, own.first, own.count, parameter_elements(t), 1.0f / sqrtf((float)t->cols),
                             seed, (uint32_t)index, m->stream);
    else
        weights_init_normal(params, master, own.first, own.count, parameter_elements(t), std, seed, (uint32_t)index,
                            m->stream);
}

void llama3_init_weights(Llama3 *m, uint64_t seed) {
    param_wait_all(m->zero);
    if (m->shape.training) clear_all_training(m);
    for (int i = 0; i < m->table.count; i++) init_tensor(m, i, seed);
}

void llama3_init_adapters(Llama3 *m, uint64_t seed) {
    for (int i = 0; i < m->table.count; i++)
        if (parameter_is_adapter(&m->table.tensors[i])) init_tensor(m, i, seed);
}

// ---- parameters

void llama3_set_parameter_piece(Llama3 *m, int index, size_t first, size_t count, const floatX *values) {
    floatX *to = m->params + m->table.tensors[index].offset + first;
    param_wait_all(m->zero);
    cuda_check(cudaMemcpyAsync(to, values, count * sizeof(floatX), cudaMemcpyHostToDevice, m->stream));
    cuda_check(cudaStreamSynchronize(m->stream)); // `values` is the caller's again
}

void llama3_get_parameter_piece(Llama3 *m, int index, size_t first, size_t count, floatX *values) {
    const floatX *from = m->params + m->table.tensors[index].offset + first;
    param_wait_all(m->zero);
    llama3_download(m, values, from, count * sizeof(floatX));
}

static void reset_training(Llama3 *m, int index) {
    const ParameterPiece own = own_piece(m, index);
    if (own.count == 0) return;
    if (m->optimizer.master)
        weights_widen(m->optimizer.master + own.at, m->params + m->table.tensors[index].offset + own.first, own.count,
                      m->stream);
    llama3_clear_training(m, TRAINING_MOMENT1, own.at, own.count);
}

void llama3_reset_training(Llama3 *m) {
    if (!m->shape.training) return;
    param_wait_all(m->zero);
    for (int i = 0; i < m->table.count; i++) reset_training(m, i);
}

void llama3_set_parameter(Llama3 *m, int index, const floatX *values) {
    llama3_set_parameter_piece(m, index, 0, parameter_elements(&m->table.tensors[index]), values);
    if (m->shape.training) reset_training(m, index);
}

void llama3_get_parameter(Llama3 *m, int index, floatX *values) {
    llama3_get_parameter_piece(m, index, 0, parameter_elements(&m->table.tensors[index]), values);
}

// ---- training arrays

void llama3_set_training_piece(Llama3 *m, TrainingArray array, int index, size_t first, size_t count,
                               const float *values) {
    const ParameterPiece own = own_piece(m, index);
    const size_t end = first + count < own.first + own.count ? first + count : own.first + own.count;
    const size_t begin = first > own.first ? first : own.first;
    if (begin >= end) return;
    const char *from = (const char *)values + (begin - first) * sizeof(float); // at any address
    llama3_write_training(m, array, own.at + (begin - own.first), end - begin, from);
}

void llama3_get_training_piece(Llama3 *m, TrainingArray array, int index, size_t first, size_t count, float *values) {
    const ParameterPiece own = own_piece(m, index);
    llama3_read_training(m, array, own.at + (first - own.first), count, values);
}

void llama3_get_training(Llama3 *m, float *to) {
    const size_t n = m->table.num_shard_elements;
    for (int array = 0; array < llama3_training_arrays(m); array++)
        llama3_read_training(m, (TrainingArray)array, 0, n, to + (size_t)array * n);
}

void llama3_get_gradient(Llama3 *m, int index, float *values) {
    const ParameterTensor *t = &m->table.tensors[index];
    llama3_download(m, values, zero_whole_gradients(m->zero) + t->offset, parameter_elements(t) * sizeof(float));
}

// ---- the mean over steps

void llama3_average(Llama3 *m, int64_t samples) {
    average_update(m->optimizer.average, m->optimizer.master, samples, m->table.num_shard_elements, m->stream);
}

void llama3_use_average(Llama3 *m, bool use) {
    const float *from = use ? m->optimizer.average : m->optimizer.master;
    param_wait_all(m->zero);
    for (int r = 0; r < m->table.num_ranges; r++) {
        const ZeroPiece p = zero_piece(m->zero, r);
        if (p.count) weights_narrow(m->params + p.first, from + p.at, p.count, m->stream);
    }
    for (int b = 0; b < m->table.num_buckets; b++) param_gather(m->zero, b);
}

// ---- checksums

void llama3_checksums(Llama3 *m, uint64_t *sums) {
    param_wait_all(m->zero);
    for (int i = 0; i < m->table.count; i++) {
        const ParameterTensor *t = &m->table.tensors[i];
        // a tensor's size is a multiple of 16 elements
        checksum(m->checksums.sums + i, m->checksums.scratch, (const uint64_t *)(m->params + t->offset),
                 parameter_elements(t) * sizeof(floatX) / sizeof(uint64_t), m->stream);
    }
    llama3_download(m, sums, m->checksums.sums, (size_t)m->table.count * sizeof *sums);
}

uint64_t llama3_checksum(Llama3 *m) {
    uint64_t *sums = malloc((size_t)m->table.count * sizeof *sums), total = 0;
    if (!sums) return 0;
    llama3_checksums(m, sums);
    for (int i = 0; i < m->table.count; i++) total += sums[i] * (2 * (uint64_t)i + 1);
    free(sums);
    return total;
}
