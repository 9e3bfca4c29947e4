#include "generate/decoder.h"

#include <stdlib.h>
#include <string.h>

#include "device/device.h"
#include "device/matmul.h"
#include "kernels/attention_decode.h"
#include "kernels/embedding.h"
#include "kernels/kv_cache.h"
#include "kernels/rmsnorm.h"
#include "kernels/swiglu.h"
#include "model/llama3_network.h"

struct Decoder {
    Llama3 *m;
    const LlamaConfig *config;
    const ParameterTable *table;
    const floatX *params;
    cudaStream_t stream; // the model's
    int rows, capacity;
    int padded; // capacity rounded up to whole blocks of the cache
    int least;  // rows of a step's matrix products, at least
    MemoryPlan memory;

    floatX *cache;                 // for each layer keys and values, [rows, NKV, padded, HD] elements each
    floatX *residual, *branch_out; // [rows, C]
    floatX *norm;                  // [rows, C]
    floatX *qkv;                   // [rows, (NH + 2 NKV) HD]
    floatX *attention;             // [rows, NH HD]
    floatX *gate_up, *swiglu;      // [rows, 2F], [rows, F]
    float *rstd;                   // [rows]
    float *scratch;                // of attention_decode
    float *logits;                 // [rows, VP]
    int32_t *inputs;               // [3, rows], of which the first n are the step's: cache rows, positions, tokens

    // host
    int32_t *host_inputs; // page-locked, as inputs
    float *host_logits;   // page-locked, [rows, VP] by cache row
    int *lengths;         // [rows]
};

// ---- memory: plan runs twice, to measure and to place

static size_t cache_elements(const Decoder *d) { // keys or values of a layer
    const LlamaConfig *c = d->config;
    return (size_t)d->rows * (size_t)c->num_key_value_heads * (size_t)d->padded * (size_t)c->head_dim;
}

static KvCache layer_cache(const Decoder *d, int l) {
    floatX *keys = d->cache + 2 * (size_t)l * cache_elements(d);
    return (KvCache){keys, keys + cache_elements(d), llama3_attention_shape(d->m, d->rows, d->padded)};
}

static void *take(Decoder *d, MemoryKind kind, size_t width, size_t element_size) {
    return memory_take(&d->memory, kind, (size_t)d->rows * width * element_size);
}

static void plan(Decoder *d) {
    const LlamaConfig *c = d->config;
    const size_t C = (size_t)c->hidden_size, F = (size_t)c->intermediate_size, x = sizeof(floatX);
    const MemoryKind kind = MEMORY_WORKSPACE;
    d->cache = memory_take(&d->memory, MEMORY_KV_CACHE, 2 * (size_t)c->num_hidden_layers * cache_elements(d) * x);
    d->residual = take(d, kind, C, x);
    d->branch_out = take(d, kind, C, x);
    d->norm = take(d, kind, C, x);
    d->qkv = take(d, kind, (size_t)llama_config_qkv_width(c), x);
    d->attention = take(d, kind, (size_t)c->num_attention_heads * (size_t)c->head_dim, x);
    d->gate_up = take(d, kind, 2 * F, x);
    d->swiglu = take(d, kind, F, x);
    d->rstd = take(d, kind, 1, sizeof(float));
    const AttentionShape shape = llama3_attention_shape(d->m, d->rows, d->padded);
    d->scratch = memory_take(&d->memory, kind, sizeof(float) * attention_decode_scratch(d->rows, d->capacity, shape));
    d->logits = take(d, kind, (size_t)d->table->padded_vocab, sizeof(float));
    d->inputs = take(d, kind, 3, sizeof(int32_t));
}

static int allocate(Decoder *d, Error *err) {
    d->lengths = calloc((size_t)d->rows, sizeof *d->lengths);
    if (!d->lengths) return fail_fault(err, "no memory for a decoder of %d rows", d->rows);
    d->memory.advice = "a shorter context, or fewer texts at once,";
    d->memory.reserve_bytes = llama3_memory(d->m)->reserve_bytes;
    plan(d);
    int failed = memory_allocate(&d->memory, err);
    if (failed) return failed;
    plan(d);
    cuda_check(cudaMallocHost((void **)&d->host_inputs, 3 * (size_t)d->rows * sizeof(int32_t)));
    cuda_check(
        cudaMallocHost((void **)&d->host_logits, (size_t)d->rows * (size_t)d->table->padded_vocab * sizeof(float)));
    return 0;
}

int decoder_create(Decoder **out, Llama3 *m, int rows, int capacity, Error *err) {
    enum { MAX_ROWS = 65535 };
    if (rows < 1 || rows > MAX_ROWS) return fail_input(err, "%d texts at once, expected 1 to %d", rows, MAX_ROWS);
    if (capacity < 1 || capacity > llama3_max_tokens(m))
        return fail_input(err, "a context of %d tokens, expected 1 to %d", capacity, llama3_max_tokens(m));
    if (llama3_parameters(m)->lora_rank && rows > llama3_max_positions(m))
        return fail_input(err, "%d texts at once with adapters, expected at most %d", rows, llama3_max_positions(m));
    Decoder *d = calloc(1, sizeof *d);
    if (!d) return fail_fault(err, "no memory for a decoder");
    d->m = m;
    d->config = llama3_config(m);
    d->table = llama3_parameters(m);
    d->params = llama3_params(m);
    d->stream = llama3_stream(m);
    d->rows = rows;
    d->capacity = capacity;
    d->padded = (capacity + KV_CACHE_BLOCK - 1) / KV_CACHE_BLOCK * KV_CACHE_BLOCK;
    int failed = allocate(d, err);
    if (failed) {
        decoder_destroy(d);
        return failed;
    }
    *out = d;
    return 0;
}

void decoder_destroy(Decoder *d) {
    if (!d) return;
    cuda_check(cudaStreamSynchronize(d->stream));
    memory_free(&d->memory);
    cuda_check(cudaFreeHost(d->host_inputs));
    cuda_check(cudaFreeHost(d->host_logits));
    free(d->lengths);
    free(d);
}

int decoder_rows(const Decoder *d) { return d->rows; }
int decoder_capacity(const Decoder *d) { return d->capacity; }
int decoder_length(const Decoder *d, int row) { return d->lengths[row]; }

void decoder_clear(Decoder *d, int row) { d->lengths[row] = 0; }

void decoder_pad_steps(Decoder *d, int rows) { d->least = rows < d->rows ? rows : d->rows; }

void decoder_print_memory(const Decoder *d, FILE *to) {
    const MemoryPlan both = memory_sum(llama3_memory(d->m), &d->memory);
    memory_print(&both, to);
}

// Rows of the matrix products in a step of n rows. The results of rows beyond n are never read.
static int product_rows(const Decoder *d, int n) { return n < d->least ? d->least : n; }

// ---- logits

// Logits of n rows of normed activations, into those rows of host_logits that `rows` names; NULL: into row `only`.
static void compute_logits(Decoder *d, const floatX *norm, const int32_t *rows, int only, int n) {
    const size_t VP = (size_t)d->table->padded_vocab;
    matmul(d->logits, MATMUL_OUT_FP32, norm, d->params + d->table->head, rows ? product_rows(d, n) : n, (int)VP,
           d->config->hidden_size, false, true, false, d->stream);
    for (int i = 0; i < n; i++)
        cuda_check(cudaMemcpyAsync(d->host_logits + (size_t)(rows ? rows[i] : only) * VP, d->logits + (size_t)i * VP,
                                   VP * sizeof(float), cudaMemcpyDeviceToHost, d->stream));
    cuda_check(cudaStreamSynchronize(d->stream));
}

const float *decoder_logits(const Decoder *d, int row) {
    return d->host_logits + (size_t)row * (size_t)d->table->padded_vocab;
}

static int check_tokens(const Decoder *d, const int32_t *tokens, int n, Error *err) {
    const int V = d->config->vocab_size;
    for (int i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= V)
            return fail_input(err, "token %d has the id %d, the model's vocabulary has %d ids", i, tokens[i], V);
    return 0;
}

// ---- a prompt

typedef struct {
    Decoder *d;
    int row, n;
} Prompt;

static void store_layer(void *context, int l, const floatX *qkv) {
    const Prompt *p = context;
    kv_cache_store(layer_cache(p->d, l), qkv, p->row, p->n, p->d->stream);
}

int decoder_prefill(Decoder *d, int row, const int32_t *tokens, int n, Error *err) {
    if (row < 0 || row >= d->rows) return fail_input(err, "row %d, expected 0 to %d", row, d->rows - 1);
    if (n < 1) return fail_input(err, "the prompt is empty, expected at least one token");
    if (n > d->capacity) return fail_input(err, "the prompt has %d tokens, the context holds %d", n, d->capacity);
    int failed = check_tokens(d, tokens, n, err);
    if (failed) return failed;
    Prompt prompt = {d, row, n};
    const floatX *norm = llama3_forward_text(d->m, tokens, n, store_layer, &prompt);
    compute_logits(d, norm + (size_t)(n - 1) * (size_t)d->config->hidden_size, NULL, row, 1);
    d->lengths[row] = n;
    return 0;
}

// ---- a step

static void project(Decoder *d, floatX *y, const floatX *x, int l, LayerUnit unit, int n) {
    llama3_project(d->m, y, x, l, unit, product_rows(d, n));
}

// residual += branch_out, and norm = its norm.
static void add_norm(Decoder *d, size_t weight, int n) {
    const LlamaConfig *c = d->config;
    add_rmsnorm_forward(d->residual, d->norm, d->rstd, d->residual, d->branch_out, d->params + weight, n,
                        c->hidden_size, c->rms_norm_eps, d->stream);
}

// Block l from its normed input to branch_out, which the next norm adds to the residual stream. length: of the longest row,
// with its new token. The steps are those of block_forward in model/llama3.c.
static void block(Decoder *d, int l, int n, int length) {
    const LlamaConfig *c = d->config;
    const LayerOffsets *w = &d->table->layers[l];
    const NewTokens tokens = {d->inputs, d->inputs + n, n};
    const KvCache cache = layer_cache(d, l);
    project(d, d->qkv, d->norm, l, UNIT_QKV, n);
    kv_cache_append(d->qkv, cache, llama3_rope(d->m), tokens, d->stream);
    attention_decode(d->attention, d->scratch, d->qkv, cache, tokens, length, d->stream);
    project(d, d->branch_out, d->attention, l, UNIT_OUTPUT, n);
    add_norm(d, w->ffn_norm, n);
    project(d, d->gate_up, d->norm, l, UNIT_GATE_UP, n);
    swiglu_forward(d->swiglu, d->gate_up, n, c->intermediate_size, d->stream);
    project(d, d->branch_out, d->swiglu, l, UNIT_DOWN, n);
}

// Forward pass to norm [n, C] of the step whose inputs are on the device.
static void forward(Decoder *d, int n, int length) {
    const LlamaConfig *c = d->config;
    llama3_wait_for_weights(d->m);
    embedding_forward(d->residual, d->inputs + 2 * n, d->params + d->table->embedding, n, c->hidden_size, d->stream);
    rmsnorm_forward(d->norm, d->rstd, d->residual, d->params + d->table->layers[0].attention_norm, n, c->hidden_size,
                    c->rms_norm_eps, d->stream);
    for (int l = 0; l < c->num_hidden_layers; l++) {
        if (l > 0) add_norm(d, d->table->layers[l].attention_norm, n);
        block(d, l, n, length);
    }
    add_norm(d, d->table->final_norm, n);
}

static int check_step(const Decoder *d, const int32_t *rows, const int32_t *tokens, int n, Error *err) {
    if (n < 1 || n > d->rows) return fail_input(err, "a step of %d rows, expected 1 to %d", n, d->rows);
    for (int i = 0; i < n; i++) {
        if (rows[i] < 0 || rows[i] >= d->rows)
            return fail_input(err, "row %d: expected one of the %d rows", rows[i], d->rows);
        for (int j = 0; j < i; j++)
            if (rows[j] == rows[i]) return fail_input(err, "row %d stands twice in a step", rows[i]);
        if (d->lengths[rows[i]] == d->capacity)
            return fail_input(err, "row %d: its context of %d tokens is full", rows[i], d->capacity);
    }
    return check_tokens(d, tokens, n, err);
}

int decoder_step(Decoder *d, const int32_t *rows, const int32_t *tokens, int n, Error *err) {
    int failed = check_step(d, rows, tokens, n, err), longest = 0;
    if (failed) return failed;
    for (int i = 0; i < n; i++) {
        const int position = d->lengths[rows[i]]++;
        d->host_inputs[i] = rows[i];
        d->host_inputs[n + i] = position;
        d->host_inputs[2 * n + i] = tokens[i];
        if (position >= longest) longest = position + 1;
    }
    cuda_check(
        cudaMemcpyAsync(d->inputs, d->host_inputs, 3 * (size_t)n * sizeof(int32_t), cudaMemcpyHostToDevice, d->stream));
    forward(d, n, longest);
    compute_logits(d, d->norm, d->host_inputs, 0, n);
    return 0;
}

// ---- copies

void decoder_copy(Decoder *d, int to, int from) {
    if (to == from) return;
    const LlamaConfig *c = d->config;
    const size_t head = (size_t)d->padded * (size_t)c->head_dim, VP = (size_t)d->table->padded_vocab;
    const int blocks = (d->lengths[from] + KV_CACHE_BLOCK - 1) / KV_CACHE_BLOCK;
    const size_t used = (size_t)blocks * KV_CACHE_BLOCK * (size_t)c->head_dim; // elements of a head, keys or values
    const size_t heads = (size_t)c->num_key_value_heads;
    for (int l = 0; l < c->num_hidden_layers; l++) {
        const KvCache cache = layer_cache(d, l);
        for (size_t h = 0; h < 2 * heads; h++) {
            floatX *base = h < heads ? cache.keys : cache.values;
            const size_t kv = h % heads;
            cuda_check(cudaMemcpyAsync(base + ((size_t)to * heads + kv) * head,
                                       base + ((size_t)from * heads + kv) * head, used * sizeof(floatX),
                                       cudaMemcpyDeviceToDevice, d->stream));
        }
    }
    memcpy(d->host_logits + (size_t)to * VP, d->host_logits + (size_t)from * VP, VP * sizeof(float));
    d->lengths[to] = d->lengths[from];
}
