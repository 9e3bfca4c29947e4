// A model's memory: planned, allocated, freed.
#include "model/llama3_create.h"

#include <stdlib.h>
#include <string.h>

#include "device/matmul.h"
#include "kernels/checksum.h"
#include "kernels/grad_norm.h"
#include "kernels/rmsnorm.h"
#include "model/llama3_state.h"

// Logits of a chunk of rows take at most this much memory (or 128 rows).
static const size_t LOGITS_BYTES = (size_t)512 << 20;
enum { MIN_LOGITS_ROWS = 128 };

const LlamaConfig *llama3_config(const Llama3 *m) { return &m->config; }
const ParameterTable *llama3_parameters(const Llama3 *m) { return &m->table; }
const RunShape *llama3_shape(const Llama3 *m) { return &m->shape; }
const MemoryPlan *llama3_memory(const Llama3 *m) { return &m->memory; }
int llama3_shard(const Llama3 *m) { return m->shape.parallel.shard; }

cudaStream_t llama3_stream(const Llama3 *m) { return m->stream; }
const floatX *llama3_params(const Llama3 *m) { return m->params; }
const float *llama3_rope(const Llama3 *m) { return m->rope; }
void llama3_wait_for_weights(Llama3 *m) { param_wait_all(m->zero); }

AttentionShape llama3_attention_shape(const Llama3 *m, int B, int T) {
    const LlamaConfig *c = &m->config;
    return (AttentionShape){B, T, c->num_attention_heads, c->num_key_value_heads, c->head_dim};
}

// ---- the plan: its functions run twice, to measure and to place

// Numbers of elements.
typedef struct {
    size_t N, C, F, QKV, NH, attention;
} Sizes;

static Sizes sizes_of(const Llama3 *m) {
    const LlamaConfig *c = &m->config;
    return (Sizes){.N = (size_t)m->limits.positions,
                   .C = (size_t)c->hidden_size,
                   .F = (size_t)c->intermediate_size,
                   .QKV = (size_t)llama_config_qkv_width(c),
                   .NH = (size_t)c->num_attention_heads,
                   .attention = (size_t)c->num_attention_heads * (size_t)c->head_dim};
}

static floatX *take_x(Llama3 *m, MemoryKind kind, size_t count) {
    return memory_take(&m->memory, kind, count * sizeof(floatX));
}
static float *take_f(Llama3 *m, MemoryKind kind, size_t count) {
    return memory_take(&m->memory, kind, count * sizeof(float));
}

static void plan_parameters(Llama3 *m) {
    Optimizer *o = &m->optimizer;
    const size_t n = m->table.num_shard_elements;
    m->params = take_x(m, MEMORY_PARAMETERS, m->table.num_elements);
    if (!m->shape.training) return;
    zero_plan(m->zero, &m->memory);
    llama3_plan_optimizer(m);
    if (m->shape.average) o->average = take_f(m, MEMORY_AVERAGE, n);
}

static void plan_layer(Llama3 *m, LayerActivations *a) {
    const Sizes s = sizes_of(m);
    const MemoryKind kind = MEMORY_ACTIVATIONS;
    const bool cheap = m->shape.recompute == RECOMPUTE_CHEAP, shared = cheap && a != m->acts.layers;
    a->norm1 = shared ? m->acts.layers->norm1 : take_x(m, kind, s.N * s.C);
    a->rstd1 = take_f(m, kind, s.N);
    a->qkv = take_x(m, kind, s.N * s.QKV);
    a->attention = take_x(m, kind, s.N * s.attention);
    a->lse = take_f(m, kind, s.N * s.NH);
    a->residual2 = take_x(m, kind, s.N * s.C);
    a->norm2 = cheap ? a->norm1 : take_x(m, kind, s.N * s.C);
    a->rstd2 = take_f(m, kind, s.N);
    a->gate_up = take_x(m, kind, s.N * 2 * s.F);
    a->swiglu = shared ? m->acts.layers->swiglu : take_x(m, kind, s.N * s.F);
}

// Every block has its own activations for the backward pass, but for those that are recomputed, which all share: norms and
// SwiGLU, or with RECOMPUTE_BLOCK the whole set except a block's input. Blocks that no backward pass reaches (all of them
// without training) share set and input.
static void plan_layers(Llama3 *m) {
    const Sizes s = sizes_of(m);
    Activations *acts = &m->acts;
    const int L = m->config.num_hidden_layers, lowest = m->table.lowest, first = lowest < 1 ? 0 : lowest / 2;
    const bool on_host = m->shape.training && m->shape.activations == ACTIVATIONS_HOST && first < L;
    if (on_host) block_inputs_plan(&acts->inputs, &m->memory, first, L, s.N * s.C * sizeof(floatX));
    for (int l = 0; l < L; l++) {
        LayerActivations *a = &acts->layers[l];
        const bool reached = m->shape.training && l >= first;
        if ((reached && m->shape.recompute != RECOMPUTE_BLOCK) || l == 0)
            plan_layer(m, a);
        else
            *a = acts->layers[0];
        if (reached && on_host)
            a->residual1 = block_input(&acts->inputs, l);
        else if (reached || l == 0)
            a->residual1 = take_x(m, MEMORY_ACTIVATIONS, s.N * s.C);
    }
    acts->final_rstd = take_f(m, MEMORY_ACTIVATIONS, s.N);
}

static void plan_adapters(Llama3 *m) {
    const Sizes s = sizes_of(m);
    const size_t rank = (size_t)m->table.lora_rank;
    size_t widest = s.attention;
    if (widest < s.C) widest = s.C;
    if (widest < s.F) widest = s.F;
    if (rank == 0) return;
    m->acts.lora_low = take_x(m, MEMORY_WORKSPACE, s.N * rank);
    m->acts.lora_wide = take_x(m, MEMORY_WORKSPACE, s.N * widest);
    if (m->shape.training) m->grads.lora_low = take_x(m, MEMORY_WORKSPACE, s.N * rank);
}

// What the last norm leaves is used up before the backward pass of a block begins, and the MLP's ends before attention's
// begins: all three have the same memory.
static void plan_turns(Llama3 *m) {
    const Sizes s = sizes_of(m);
    Activations *acts = &m->acts;
    Gradients *d = &m->grads;
    const MemoryKind kind = MEMORY_WORKSPACE;
    MemoryTurns turns = memory_begin_turns(&m->memory, kind);
    acts->final_residual = take_x(m, kind, s.N * s.C);
    acts->final_norm = take_x(m, kind, s.N * s.C);
    memory_next_turn(&turns);
    if (m->shape.training) {
        d->swiglu = take_x(m, kind, s.N * s.F);
        memory_next_turn(&turns);
        d->qkv = take_x(m, kind, s.N * s.QKV);
        d->attention = take_x(m, kind, s.N * s.attention);
        d->attention_scratch = take_f(m, kind, m->limits.attention_scratch);
    }
    memory_end_turns(&turns);
}

static void plan_gradients(Llama3 *m) {
    const Sizes s = sizes_of(m);
    const MemoryKind kind = MEMORY_WORKSPACE;
    Gradients *d = &m->grads;
    d->residual = take_x(m, kind, s.N * s.C);
    d->norm = take_x(m, kind, s.N * s.C);
    d->rmsnorm_scratch = take_f(m, kind, rmsnorm_backward_scratch(m->config.hidden_size));
    m->optimizer.norm_scratch = take_f(m, kind, sum_squares_scratch());
    m->optimizer.square_sums = take_f(m, kind, (size_t)m->table.num_ranges);
    m->checksums.scratch = memory_take(&m->memory, kind, checksum_scratch() * sizeof *m->checksums.scratch);
    m->checksums.sums = memory_take(&m->memory, kind, (size_t)m->table.count * sizeof *m->checksums.sums);
}

static void plan_workspace(Llama3 *m) {
    const size_t N = (size_t)m->limits.positions;
    Classifier *c = &m->classifier;
    m->acts.branch_out = take_x(m, MEMORY_WORKSPACE, N * (size_t)m->config.hidden_size);
    if (!m->config.num_labels) c->logits = take_x(m, MEMORY_WORKSPACE, (size_t)c->rows * (size_t)m->table.padded_vocab);
    c->losses = take_f(m, MEMORY_WORKSPACE, N);
    m->rope = take_f(m, MEMORY_WORKSPACE, (size_t)m->limits.T * (size_t)m->config.head_dim);
    m->step.scalars = memory_take(&m->memory, MEMORY_WORKSPACE, sizeof *m->step.scalars);
    m->step.result = memory_take(&m->memory, MEMORY_WORKSPACE, sizeof *m->step.result);
    llama3_plan_batch(m);
    plan_adapters(m);
    plan_turns(m);
    if (m->shape.training) plan_gradients(m);
    llama3_place_attention(m);
}

static void plan(Llama3 *m) {
    plan_parameters(m);
    plan_layers(m);
    plan_workspace(m);
}

// ---- measuring

static int choose_logits_rows(const Llama3 *m) {
    const size_t row = (size_t)m->table.padded_vocab * sizeof(floatX);
    size_t rows = LOGITS_BYTES / row / MIN_LOGITS_ROWS * MIN_LOGITS_ROWS;
    if (rows < MIN_LOGITS_ROWS) rows = MIN_LOGITS_ROWS;
    return rows < (size_t)m->limits.positions ? (int)rows : m->limits.positions;
}

// All about the model that needs no device: its tables, and how much memory it takes.
static int measure(Llama3 *m, const LlamaConfig *config, const RunShape *shape, Error *err) {
    m->config = *config;
    m->shape = *shape;
    int failed = llama3_find_limits(m, err);
    if (failed) return failed;
    Parallel *p = &m->shape.parallel;
    if (p->shards < 1) p->shards = 1;
    if (p->replicas < 1) p->replicas = 1;
    failed = parameter_table_build(&m->table, config, p->shards, &shape->part, err);
    if (!failed && shape->training) failed = zero_create(&m->zero, &m->table, p, err);
    if (failed) return failed;
    m->acts.layers = calloc((size_t)config->num_hidden_layers, sizeof *m->acts.layers);
    if (!m->acts.layers) return fail_fault(err, "no memory for the model's tables");
    m->classifier.rows = choose_logits_rows(m);
    failed = llama3_plan_attention(m, err);
    if (!failed) plan(m);
    return failed;
}

// Of the world, of the rank's shard group and of its replicas. Where the last two send from rank to rank too, NCCL makes
// other buffers for that: they count twice.
static int communicators(const Parallel *p) {
    const int groups = (p->shards > 1) + (p->replicas > 1);
    return (p->shards * p->replicas > 1) + groups * (p->grad_reduce == GRAD_REDUCE_BF16 ? 2 : 1);
}

static void free_tables(Llama3 *m) {
    zero_destroy(m->zero);
    cudnn_attention_destroy(m->attention.cudnn);
    parameter_table_free(&m->table);
    free(m->acts.layers);
}

int llama3_plan_memory(MemoryPlan *to, const LlamaConfig *config, const RunShape *shape, Error *err) {
    Llama3 *m = calloc(1, sizeof *m);
    if (!m) return fail_fault(err, "no memory for the model");
    int failed = measure(m, config, shape, err);
    *to = m->memory;
    to->reserve_bytes = memory_gpu_reserve(communicators(&m->shape.parallel));
    free_tables(m);
    free(m);
    return failed;
}

// ---- the model

static int allocate_host(Llama3 *m, Error *err) {
    Step *s = &m->step;
    cuda_check(cudaMallocHost((void **)&s->host_scalars, STEP_SLOTS * sizeof *s->host_scalars));
    cuda_check(cudaMallocHost((void **)&s->host_result, sizeof *s->host_result));
    cuda_check(cudaMallocHost((void **)&m->host.logits, (size_t)m->table.padded_vocab * sizeof(floatX)));
    memset(s->host_scalars, 0, STEP_SLOTS * sizeof *s->host_scalars);
    return llama3_allocate_batches(m, err);
}

static int allocate(Llama3 *m, Error *err) {
    m->host.rope = malloc((size_t)m->limits.T * (size_t)m->config.head_dim * sizeof *m->host.rope);
    if (!m->host.rope) return fail_fault(err, "no memory for the model's tables");
    m->memory.library_bytes = matmul_prepare();
    m->memory.reserve_bytes = device_memory_is_host() ? 0 : memory_gpu_reserve(communicators(&m->shape.parallel));
    int failed = memory_allocate(&m->memory, err);
    if (!failed) {
        plan(m);
        llama3_upload_rope(m);
        llama3_clear_padding(m);
        failed = allocate_host(m, err);
    }
    if (!failed && m->zero) {
        zero_start(m->zero, m->params, m->stream);
        if (m->acts.inputs.bytes) block_inputs_start(&m->acts.inputs);
        failed = llama3_start_optimizer(m, err);
    }
    if (!failed && m->zero) failed = llama3_allocate_graphs(m, err);
    return failed;
}

int llama3_create(Llama3 **out, const LlamaConfig *config, const RunShape *shape, Error *err) {
    Llama3 *m = calloc(1, sizeof *m);
    if (!m) return fail_fault(err, "no memory for the model");
    cuda_check(cudaStreamCreate(&m->stream));
    cuda_check(cudaEventCreateWithFlags(&m->step.ended, cudaEventDisableTiming));
    int failed = measure(m, config, shape, err);
    if (!failed) failed = allocate(m, err);
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
    free_tables(m);
    offload_destroy(&m->optimizer.offload);
    block_inputs_destroy(&m->acts.inputs);
    memory_free(&m->memory);
    llama3_free_batches(m);
    llama3_free_graphs(m);
    cuda_check(cudaFreeHost(m->step.host_scalars));
    cuda_check(cudaFreeHost(m->step.host_result));
    cuda_check(cudaFreeHost(m->host.logits));
    free(m->host.rope);
    cuda_check(cudaEventDestroy(m->step.ended));
    cuda_check(cudaStreamDestroy(m->stream));
    free(m);
}
