// A model's memory. Its weights are in llama3_weights.c, the training step in llama3_step.c.
#include "model/llama3_internal.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/checksum.h"
#include "kernels/grad_norm.h"
#include "kernels/rmsnorm.h"
#include "kernels/rope.h"
#include "device/matmul.h"

// Logits of a chunk of rows take at most this much memory (or 128 rows).
static const size_t LOGITS_BYTES = (size_t)512 << 20;
enum { MIN_LOGITS_ROWS = 128 };

int llama3_rows(const Llama3 *m) { return m->shape.B * m->shape.T; }

int llama3_qkv_width(const Llama3 *m) {
    return (m->config.num_attention_heads + 2 * m->config.num_key_value_heads) * m->config.head_dim;
}

AttentionShape llama3_attention_shape(const Llama3 *m, int B, int T) {
    const LlamaConfig *c = &m->config;
    return (AttentionShape){B, T, c->num_attention_heads, c->num_key_value_heads, c->head_dim};
}

const LlamaConfig *llama3_config(const Llama3 *m) { return &m->config; }
const ParameterTable *llama3_parameters(const Llama3 *m) { return &m->table; }
int llama3_shard(const Llama3 *m) { return m->shape.parallel.shard; }
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
    shards_plan(m);
    m->master = take_f(m, MEMORY_OPTIMIZER, m->table.num_shard_elements);
    m->moment1 = take_f(m, MEMORY_OPTIMIZER, m->table.num_shard_elements);
    m->moment2 = take_f(m, MEMORY_OPTIMIZER, m->table.num_shard_elements);
    if (m->shape.average) m->average = take_f(m, MEMORY_AVERAGE, m->table.num_shard_elements);
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

// Every block has its own activations for the backward pass; with recomputation all share one set, and each keeps its
// own input. Blocks that no backward pass reaches (all of them without training) share set and input.
static void plan_layers(Llama3 *m) {
    const size_t NC = (size_t)llama3_rows(m) * (size_t)m->config.hidden_size;
    for (int l = 0; l < m->config.num_hidden_layers; l++) {
        LayerActivations *a = &m->layers[l];
        const bool reached = m->shape.training && m->table.lowest <= 2 * l + 1;
        if ((reached && !m->shape.recompute) || l == 0)
            plan_layer(m, a);
        else
            *a = m->layers[0];
        if (reached || l == 0) a->residual1 = take_x(m, MEMORY_ACTIVATIONS, NC);
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
    m->norm_scratch = take_f(m, kind, sum_squares_scratch());
    m->checksum_scratch = memory_take(&m->memory, kind, checksum_scratch() * sizeof *m->checksum_scratch);
    m->checksums = memory_take(&m->memory, kind, (size_t)m->table.count * sizeof *m->checksums);
}

static void plan_comparisons(Llama3 *m) {
    const size_t N = (size_t)llama3_rows(m), answers = (size_t)llama3_answers_at_most(m);
    Comparisons *c = &m->comparisons;
    c->hidden = take_i(m, 2 * N);
    c->spans = take_i(m, 2 * answers);
    c->groups = take_i(m, 2 * answers);
    c->counters = take_i(m, 2);
    c->values = take_f(m, MEMORY_WORKSPACE, answers);
    c->targets = take_f(m, MEMORY_WORKSPACE, answers);
    c->reference = take_f(m, MEMORY_WORKSPACE, answers);
    c->danswers = take_f(m, MEMORY_WORKSPACE, answers);
    c->weights = take_f(m, MEMORY_WORKSPACE, N);
}

static void plan_adapters(Llama3 *m) {
    const LlamaConfig *c = &m->config;
    const size_t N = (size_t)llama3_rows(m), rank = (size_t)m->table.lora_rank;
    int widest = c->num_attention_heads * c->head_dim;
    if (widest < c->hidden_size) widest = c->hidden_size;
    if (widest < c->intermediate_size) widest = c->intermediate_size;
    if (rank == 0) return;
    m->lora.low = take_x(m, MEMORY_WORKSPACE, N * rank);
    m->lora.wide = take_x(m, MEMORY_WORKSPACE, N * (size_t)widest);
    if (m->shape.training) m->lora.dlow = take_x(m, MEMORY_WORKSPACE, N * rank);
}

static void plan_workspace(Llama3 *m) {
    const size_t N = (size_t)llama3_rows(m);
    m->delta = take_x(m, MEMORY_WORKSPACE, N * (size_t)m->config.hidden_size);
    if (!m->config.num_labels)
        m->logits = take_x(m, MEMORY_WORKSPACE, (size_t)m->logits_rows * (size_t)m->table.padded_vocab);
    m->losses = take_f(m, MEMORY_WORKSPACE, N);
    m->rope = take_f(m, MEMORY_WORKSPACE, (size_t)m->shape.T * (size_t)m->config.head_dim);
    m->tokens = take_i(m, N);
    m->targets = take_i(m, N);
    m->doc_start = take_i(m, N);
    m->order = take_i(m, N);
    m->scalars = memory_take(&m->memory, MEMORY_WORKSPACE, sizeof *m->scalars);
    m->result = memory_take(&m->memory, MEMORY_WORKSPACE, sizeof *m->result);
    if (m->shape.comparisons) plan_comparisons(m);
    plan_adapters(m);
    if (m->shape.training) plan_backward(m);
}

static void plan(Llama3 *m) {
    plan_parameters(m);
    plan_layers(m);
    plan_workspace(m);
}

// Memory of a micro-batch on the host, a multiple of 8 bytes: numbers of the answers, which are 8 bytes each, first.
static size_t batch_bytes(const Llama3 *m) {
    const size_t N = (size_t)llama3_rows(m), answers = N / 2;
    const size_t eight = sizeof(int64_t) + sizeof(AnswerSpan) + sizeof(AnswerGroup); // [answers]
    return (answers * eight + 6 * N * sizeof(int32_t) + 7) / 8 * 8;
}

static void place_batch(Batch *batch, char *memory, size_t N) {
    const size_t answers = N / 2;
    batch->answer_numbers = (int64_t *)memory;
    batch->answers = (AnswerSpan *)(batch->answer_numbers + answers);
    batch->groups = (AnswerGroup *)(batch->answers + answers);
    batch->tokens = (int32_t *)(batch->groups + answers);
    batch->targets = batch->tokens + N;
    batch->doc_start = batch->targets + N;
    batch->order = batch->doc_start + N;
    batch->excluded = batch->order + N;
}

static int allocate_host(Llama3 *m, Error *err) {
    const size_t N = (size_t)llama3_rows(m), batches = (size_t)m->shape.micro_batches;
    m->batches = calloc(batches, sizeof *m->batches);
    if (!m->batches) return fail_fault(err, "no memory for %zu micro-batches", batches);
    cuda_check(cudaMallocHost((void **)&m->batch_memory, batches * batch_bytes(m)));
    if (m->shape.comparisons) {
        const size_t answers = batches * (size_t)llama3_answers_at_most(m);
        cuda_check(cudaMallocHost((void **)&m->host_reference, answers * sizeof *m->host_reference));
        cuda_check(cudaMallocHost((void **)&m->host_counters, 2 * batches * sizeof *m->host_counters));
    }
    cuda_check(cudaMallocHost((void **)&m->host_scalars, sizeof *m->host_scalars));
    cuda_check(cudaMallocHost((void **)&m->host_result, sizeof *m->host_result));
    cuda_check(cudaMallocHost((void **)&m->host_logits, (size_t)m->table.padded_vocab * sizeof(floatX)));
    memset(m->host_scalars, 0, sizeof *m->host_scalars);
    for (size_t i = 0; i < batches; i++) place_batch(&m->batches[i], m->batch_memory + i * batch_bytes(m), N);
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

// Everything about the model's memory but the memory itself.
static int measure(Llama3 *m, const LlamaConfig *config, const RunShape *shape, Error *err) {
    int failed = check_shape(config, shape, err);
    if (failed) return failed;
    m->config = *config;
    m->shape = *shape;
    Parallel *p = &m->shape.parallel;
    if (p->shards < 1) p->shards = 1;
    if (p->replicas < 1) p->replicas = 1;
    m->gradient_shards = p->zero == 2 && p->shards > 1;
    failed = parameter_table_build(&m->table, config, p->shards, &shape->part, err);
    if (failed) return failed;
    m->layers = calloc((size_t)config->num_hidden_layers, sizeof *m->layers);
    if (!m->layers) return fail_fault(err, "no memory for the model's tables");
    m->logits_rows = choose_logits_rows(m);
    plan(m);
    return 0;
}

static int allocate(Llama3 *m, Error *err) {
    float *rope = malloc((size_t)m->shape.T * (size_t)m->config.head_dim * sizeof *rope);
    if (!rope) return fail_fault(err, "no memory for the model's tables");
    int failed = memory_allocate(&m->memory, err);
    if (!failed) {
        plan(m);
        upload_rope(m, rope);
        llama3_clear_padding(m);
        m->memory.library_bytes = matmul_prepare();
        failed = allocate_host(m, err);
    }
    if (!failed && m->shape.training) failed = shards_prepare(m, err);
    free(rope);
    return failed;
}

int llama3_create(Llama3 **out, const LlamaConfig *config, const RunShape *shape, Error *err) {
    Llama3 *m = calloc(1, sizeof *m);
    if (!m) return fail_fault(err, "no memory for the model");
    cuda_check(cudaStreamCreate(&m->stream));
    int failed = measure(m, config, shape, err);
    if (!failed) failed = allocate(m, err);
    if (failed) {
        llama3_destroy(m);
        return failed;
    }
    *out = m;
    return 0;
}

int llama3_plan_memory(MemoryPlan *to, const LlamaConfig *config, const RunShape *shape, Error *err) {
    Llama3 *m = calloc(1, sizeof *m);
    if (!m) return fail_fault(err, "no memory for the model");
    int failed = measure(m, config, shape, err);
    *to = m->memory;
    free(m->layers);
    parameter_table_free(&m->table);
    free(m);
    return failed;
}

int llama3_plan_text(char *text, size_t capacity, const char *config_path, const RunShape *shape, Error *err) {
    LlamaConfig config;
    MemoryPlan planned;
    int failed = llama_config_read(&config, config_path, err);
    if (!failed) failed = llama3_plan_memory(&planned, &config, shape, err);
    return failed ? failed : memory_text(text, capacity, &planned, err);
}

void llama3_destroy(Llama3 *m) {
    if (!m) return;
    shards_free(m);
    cuda_check(cudaStreamSynchronize(m->stream));
    memory_free(&m->memory);
    parameter_table_free(&m->table);
    cuda_check(cudaFreeHost(m->batch_memory));
    cuda_check(cudaFreeHost(m->host_reference));
    cuda_check(cudaFreeHost(m->host_counters));
    cuda_check(cudaFreeHost(m->host_scalars));
    cuda_check(cudaFreeHost(m->host_result));
    cuda_check(cudaFreeHost(m->host_logits));
    cuda_check(cudaStreamDestroy(m->stream));
    free(m->batches);
    free(m->layers);
    free(m);
}
