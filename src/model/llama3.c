// A model's memory and weights. The training step is in llama3_step.c.
#include "model/llama3_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/checksum.h"
#include "kernels/grad_norm.h"
#include "kernels/rmsnorm.h"
#include "kernels/rope.h"
#include "kernels/weights.h"
#include "target/matmul.h"

// Logits of a chunk of rows take at most this much memory (or 128 rows).
static const size_t LOGITS_BYTES = (size_t)512 << 20;
enum { MIN_LOGITS_ROWS = 128, BATCH_ARRAYS = 4 };

int llama3_rows(const Llama3 *m) { return m->shape.B * m->shape.T; }

int llama3_qkv_width(const Llama3 *m) {
    return (m->config.num_attention_heads + 2 * m->config.num_key_value_heads) * m->config.head_dim;
}

const LlamaConfig *llama3_config(const Llama3 *m) { return &m->config; }
const ParameterTable *llama3_parameters(const Llama3 *m) { return &m->table; }
void llama3_print_memory(const Llama3 *m, FILE *to) { memory_print(&m->memory, to); }

// ---- memory: each plan_ function runs twice, to measure and to place

static floatX *take_x(Llama3 *m, MemoryKind kind, size_t count) {
    return memory_take(&m->memory, kind, count * sizeof(floatX));
}
static float *take_f(Llama3 *m, MemoryKind kind, size_t count) {
    return memory_take(&m->memory, kind, count * sizeof(float));
}
static int32_t *take_i(Llama3 *m, size_t count) {
    return memory_take(&m->memory, MEMORY_WORKSPACE, count * sizeof(int32_t));
}

static void plan_parameters(Llama3 *m) {
    const size_t n = m->table.num_elements;
    m->params = take_x(m, MEMORY_PARAMETERS, n);
    if (!m->shape.training) return;
    m->grads = take_f(m, MEMORY_GRADIENTS, n);
    m->master = take_f(m, MEMORY_OPTIMIZER, n);
    m->moment1 = take_f(m, MEMORY_OPTIMIZER, n);
    m->moment2 = take_f(m, MEMORY_OPTIMIZER, n);
}

static void plan_layer(Llama3 *m, LayerActivations *a) {
    const LlamaConfig *c = &m->config;
    const size_t N = (size_t)llama3_rows(m), C = (size_t)c->hidden_size, F = (size_t)c->intermediate_size;
    const size_t heads = (size_t)c->num_attention_heads;
    const MemoryKind kind = MEMORY_ACTIVATIONS;
    a->norm1 = take_x(m, kind, N * C);
    a->rstd1 = take_f(m, kind, N);
    a->qkv = take_x(m, kind, N * (size_t)llama3_qkv_width(m));
    a->attention = take_x(m, kind, N * heads * (size_t)c->head_dim);
    a->lse = take_f(m, kind, N * heads);
    a->residual2 = take_x(m, kind, N * C);
    a->norm2 = take_x(m, kind, N * C);
    a->rstd2 = take_f(m, kind, N);
    a->gate_up = take_x(m, kind, N * 2 * F);
    a->swiglu = take_x(m, kind, N * F);
}

// Every block has its own activations for the backward pass; with recomputation (or without training) all share one
// set, and with recomputation each keeps its own input.
static void plan_layers(Llama3 *m) {
    const size_t NC = (size_t)llama3_rows(m) * (size_t)m->config.hidden_size;
    const bool own_set = m->shape.training && !m->shape.recompute;
    for (int l = 0; l < m->config.num_hidden_layers; l++) {
        LayerActivations *a = &m->layers[l];
        if (own_set || l == 0)
            plan_layer(m, a);
        else
            *a = m->layers[0];
        if (m->shape.training || l == 0) a->residual1 = take_x(m, MEMORY_ACTIVATIONS, NC);
    }
    m->residual_final = take_x(m, MEMORY_ACTIVATIONS, NC);
    m->norm_final = take_x(m, MEMORY_ACTIVATIONS, NC);
    m->rstd_final = take_f(m, MEMORY_ACTIVATIONS, (size_t)llama3_rows(m));
}

static void plan_backward(Llama3 *m) {
    const LlamaConfig *c = &m->config;
    const size_t N = (size_t)llama3_rows(m), C = (size_t)c->hidden_size, F = (size_t)c->intermediate_size;
    const size_t heads = (size_t)c->num_attention_heads;
    const MemoryKind kind = MEMORY_WORKSPACE;
    m->dresidual = take_x(m, kind, N * C);
    m->dnorm = take_x(m, kind, N * C);
    m->dqkv = take_x(m, kind, N * (size_t)llama3_qkv_width(m));
    m->dattention = take_x(m, kind, N * heads * (size_t)c->head_dim);
    m->dgate_up = take_x(m, kind, N * 2 * F);
    m->dswiglu = take_x(m, kind, N * F);
    m->attention_scratch = take_f(m, kind, N * heads);
    m->rmsnorm_scratch = take_f(m, kind, rmsnorm_backward_scratch(c->hidden_size));
    m->norm_scratch = take_f(m, kind, global_norm_scratch());
    m->checksum_scratch = memory_take(&m->memory, kind, checksum_scratch() * sizeof *m->checksum_scratch);
}

static void plan_workspace(Llama3 *m) {
    const size_t N = (size_t)llama3_rows(m);
    m->delta = take_x(m, MEMORY_WORKSPACE, N * (size_t)m->config.hidden_size);
    m->logits = take_x(m, MEMORY_WORKSPACE, (size_t)m->logits_rows * (size_t)m->table.padded_vocab);
    m->losses = take_f(m, MEMORY_WORKSPACE, N);
    m->rope = take_f(m, MEMORY_WORKSPACE, (size_t)m->shape.T * (size_t)m->config.head_dim);
    m->tokens = take_i(m, N);
    m->targets = take_i(m, N);
    m->doc_start = take_i(m, N);
    m->order = take_i(m, N);
    m->scalars = memory_take(&m->memory, MEMORY_WORKSPACE, sizeof *m->scalars);
    m->result = memory_take(&m->memory, MEMORY_WORKSPACE, sizeof *m->result);
    if (m->shape.training) plan_backward(m);
}

static void plan(Llama3 *m) {
    plan_parameters(m);
    plan_layers(m);
    plan_workspace(m);
}

static int allocate_host(Llama3 *m, Error *err) {
    const size_t N = (size_t)llama3_rows(m), batches = (size_t)m->shape.micro_batches;
    m->batches = calloc(batches, sizeof *m->batches);
    if (!m->batches) return fail_fault(err, "no memory for %zu micro-batches", batches);
    cuda_check(cudaMallocHost((void **)&m->batch_memory, batches * BATCH_ARRAYS * N * sizeof(int32_t)));
    cuda_check(cudaMallocHost((void **)&m->host_scalars, sizeof *m->host_scalars));
    cuda_check(cudaMallocHost((void **)&m->host_result, sizeof *m->host_result));
    cuda_check(cudaMallocHost((void **)&m->host_logits, (size_t)m->table.padded_vocab * sizeof(floatX)));
    memset(m->host_scalars, 0, sizeof *m->host_scalars);
    for (size_t i = 0; i < batches; i++) {
        int32_t *at = m->batch_memory + i * BATCH_ARRAYS * N;
        m->batches[i] = (Batch){.tokens = at, .targets = at + N, .doc_start = at + 2 * N, .order = at + 3 * N};
    }
    return 0;
}

static void upload_rope(Llama3 *m, float *table) {
    const LlamaConfig *c = &m->config;
    const RopeScaling scaling = {c->rope_factor, c->rope_low_freq_factor, c->rope_high_freq_factor,
                                 c->rope_original_max_position};
    rope_table(table, m->shape.T, c->head_dim, c->rope_theta, c->rope_type == ROPE_LLAMA3 ? &scaling : NULL);
    cuda_check(
        cudaMemcpy(m->rope, table, (size_t)m->shape.T * (size_t)c->head_dim * sizeof(float), cudaMemcpyHostToDevice));
}

static int check_shape(const LlamaConfig *config, const RunShape *shape, Error *err) {
    if (shape->B < 1 || shape->T < 1 || shape->micro_batches < 1)
        return fail_input(err, "batch of %d rows of %d tokens in %d micro-batches: each must be at least 1", shape->B,
                          shape->T, shape->micro_batches);
    if (shape->T > config->max_position_embeddings)
        return fail_input(err, "sequence length %d is longer than the model's max_position_embeddings, %d", shape->T,
                          config->max_position_embeddings);
    if ((int64_t)shape->B * shape->T > INT32_MAX / 8)
        return fail_input(err, "micro-batch of %d x %d tokens, expected at most %d", shape->B, shape->T, INT32_MAX / 8);
    return 0;
}

static int choose_logits_rows(const Llama3 *m) {
    const size_t row = (size_t)m->table.padded_vocab * sizeof(floatX);
    size_t rows = LOGITS_BYTES / row / MIN_LOGITS_ROWS * MIN_LOGITS_ROWS;
    if (rows < MIN_LOGITS_ROWS) rows = MIN_LOGITS_ROWS;
    return rows < (size_t)llama3_rows(m) ? (int)rows : llama3_rows(m);
}

static int allocate(Llama3 *m, Error *err) {
    int failed = parameter_table_build(&m->table, &m->config, err);
    if (failed) return failed;
    m->layers = calloc((size_t)m->config.num_hidden_layers, sizeof *m->layers);
    float *rope = malloc((size_t)m->shape.T * (size_t)m->config.head_dim * sizeof *rope);
    if (!m->layers || !rope) {
        free(rope);
        return fail_fault(err, "no memory for the model's tables");
    }
    m->logits_rows = choose_logits_rows(m);
    plan(m);
    failed = memory_allocate(&m->memory, err);
    if (!failed) {
        plan(m);
        upload_rope(m, rope);
        m->memory.library_bytes = matmul_prepare();
        failed = allocate_host(m, err);
    }
    free(rope);
    return failed;
}

int llama3_create(Llama3 **out, const LlamaConfig *config, const RunShape *shape, Error *err) {
    int failed = check_shape(config, shape, err);
    if (failed) return failed;
    Llama3 *m = calloc(1, sizeof *m);
    if (!m) return fail_fault(err, "no memory for the model");
    m->config = *config;
    m->shape = *shape;
    cuda_check(cudaStreamCreate(&m->stream));
    failed = allocate(m, err);
    if (failed) {
        llama3_destroy(m);
        return failed;
    }
    *out = m;
    return 0;
}

void llama3_destroy(Llama3 *m) {
    if (!m) return;
    cuda_check(cudaStreamSynchronize(m->stream));
    memory_free(&m->memory);
    parameter_table_free(&m->table);
    cuda_check(cudaFreeHost(m->batch_memory));
    cuda_check(cudaFreeHost(m->host_scalars));
    cuda_check(cudaFreeHost(m->host_result));
    cuda_check(cudaFreeHost(m->host_logits));
    cuda_check(cudaStreamDestroy(m->stream));
    free(m->batches);
    free(m->layers);
    free(m);
}

// ---- weights

static size_t elements(const ParameterTensor *t) { return (size_t)t->rows * (size_t)t->cols; }

static void init_tensor(Llama3 *m, const ParameterTensor *t, uint64_t seed, uint32_t index) {
    floatX *params = m->params + t->offset;
    float *master = m->master ? m->master + t->offset : NULL;
    float std = (float)m->config.initializer_range;
    if (t->init == INIT_RESIDUAL) std /= sqrtf(2.0f * (float)m->config.num_hidden_layers);
    if (t->init == INIT_ONES)
        weights_init_constant(params, master, elements(t), 1.0f, m->stream);
    else
        weights_init_normal(params, master, elements(t), std, seed, index, m->stream);
}

static void clear_all(Llama3 *m) {
    const size_t bytes = m->table.num_elements * sizeof(float);
    cuda_check(cudaMemsetAsync(m->params, 0, m->table.num_elements * sizeof(floatX), m->stream));
    if (!m->shape.training) return;
    cuda_check(cudaMemsetAsync(m->master, 0, bytes, m->stream));
    cuda_check(cudaMemsetAsync(m->moment1, 0, bytes, m->stream));
    cuda_check(cudaMemsetAsync(m->moment2, 0, bytes, m->stream));
}

void llama3_init_weights(Llama3 *m, uint64_t seed) {
    clear_all(m); // padding too
    for (int i = 0; i < m->table.count; i++) init_tensor(m, &m->table.tensors[i], seed, (uint32_t)i);
}

// What a tensor takes of each flat array: its elements, the padding, and the gap before the next tensor.
static size_t span(const ParameterTensor *t) {
    const size_t padded = (size_t)t->padded_rows * (size_t)t->cols;
    return (padded + PARAMETER_ALIGN - 1) / PARAMETER_ALIGN * PARAMETER_ALIGN;
}

// Elements of a piece, with all behind it that is the tensor's where it ends with the last element.
static size_t with_padding(const ParameterTensor *t, size_t first, size_t count) {
    return first + count == elements(t) ? span(t) - first : count;
}

void llama3_set_parameter_piece(Llama3 *m, int index, size_t first, size_t count, const floatX *values) {
    const ParameterTensor *t = &m->table.tensors[index];
    const size_t padded = with_padding(t, first, count);
    floatX *to = m->params + t->offset + first;
    cuda_check(cudaMemcpyAsync(to, values, count * sizeof(floatX), cudaMemcpyHostToDevice, m->stream));
    cuda_check(cudaMemsetAsync(to + count, 0, (padded - count) * sizeof(floatX), m->stream));
    cuda_check(cudaStreamSynchronize(m->stream)); // `values` is the caller's again
}

static void reset_training(Llama3 *m, size_t first, size_t count) {
    if (!m->shape.training) return;
    weights_widen(m->master + first, m->params + first, count, m->stream);
    cuda_check(cudaMemsetAsync(m->moment1 + first, 0, count * sizeof(float), m->stream));
    cuda_check(cudaMemsetAsync(m->moment2 + first, 0, count * sizeof(float), m->stream));
}

void llama3_reset_training(Llama3 *m) { reset_training(m, 0, m->table.num_elements); }

void llama3_get_parameter_piece(Llama3 *m, int index, size_t first, size_t count, floatX *values) {
    const floatX *from = m->params + m->table.tensors[index].offset + first;
    cuda_check(cudaStreamSynchronize(m->stream));
    cuda_check(cudaMemcpy(values, from, count * sizeof(floatX), cudaMemcpyDeviceToHost));
}

void llama3_set_parameter(Llama3 *m, int index, const floatX *values) {
    const ParameterTensor *t = &m->table.tensors[index];
    llama3_set_parameter_piece(m, index, 0, elements(t), values);
    reset_training(m, t->offset, span(t));
}

void llama3_get_parameter(Llama3 *m, int index, floatX *values) {
    llama3_get_parameter_piece(m, index, 0, elements(&m->table.tensors[index]), values);
}

static float *training_array(const Llama3 *m, TrainingArray array) {
    return array == TRAINING_MASTER ? m->master : array == TRAINING_MOMENT1 ? m->moment1 : m->moment2;
}

void llama3_set_training_piece(Llama3 *m, TrainingArray array, int index, size_t first, size_t count,
                               const float *values) {
    const ParameterTensor *t = &m->table.tensors[index];
    const size_t padded = with_padding(t, first, count);
    float *to = training_array(m, array) + t->offset + first;
    cuda_check(cudaMemcpyAsync(to, values, count * sizeof(float), cudaMemcpyHostToDevice, m->stream));
    cuda_check(cudaMemsetAsync(to + count, 0, (padded - count) * sizeof(float), m->stream));
    cuda_check(cudaStreamSynchronize(m->stream));
}

void llama3_get_training_piece(Llama3 *m, TrainingArray array, int index, size_t first, size_t count, float *values) {
    const float *from = training_array(m, array) + m->table.tensors[index].offset + first;
    cuda_check(cudaStreamSynchronize(m->stream));
    cuda_check(cudaMemcpy(values, from, count * sizeof(float), cudaMemcpyDeviceToHost));
}

void llama3_get_training(Llama3 *m, float *to) {
    const size_t n = m->table.num_elements;
    for (int array = 0; array < TRAINING_ARRAYS; array++)
        cuda_check(cudaMemcpyAsync(to + (size_t)array * n, training_array(m, (TrainingArray)array), n * sizeof(float),
                                   cudaMemcpyDeviceToHost, m->stream));
    cuda_check(cudaStreamSynchronize(m->stream));
}

void llama3_get_gradient(Llama3 *m, int index, float *values) {
    const ParameterTensor *t = &m->table.tensors[index];
    cuda_check(cudaStreamSynchronize(m->stream));
    cuda_check(cudaMemcpy(values, m->grads + t->offset, elements(t) * sizeof(float), cudaMemcpyDeviceToHost));
}

uint64_t llama3_checksum(Llama3 *m) {
    const size_t words = m->table.num_elements * sizeof(floatX) / sizeof(uint64_t);
    checksum(&m->result->checksum, m->checksum_scratch, (const uint64_t *)m->params, words, m->stream);
    cuda_check(cudaMemcpyAsync(&m->host_result->checksum, &m->result->checksum, sizeof(uint64_t),
                               cudaMemcpyDeviceToHost, m->stream));
    cuda_check(cudaStreamSynchronize(m->stream));
    return m->host_result->checksum;
}
