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
    const ParameterTable *parameters;
    const floatX *params;
    cudaStream_t stream; // the model's
    int rows, capacity;
    int step;  // tokens of a step, at most
    int least; // rows of a step's matrix products, at least
    PageTable pages;
    MemoryPlan memory;

    floatX *cache;                 // for each layer keys and values, [pages, NKV, PAGE_TOKENS, HD] elements each
    int32_t *table;                // [rows, pages of a row]
    floatX *residual, *branch_out; // [step, C]
    floatX *norm;                  // [step, C]
    floatX *qkv;                   // [step, (NH + 2 NKV) HD]
    floatX *attention;             // [step, NH HD]
    floatX *gate_up, *swiglu;      // [step, 2F], [step, F]
    float *rstd;                   // [step]
    float *scratch;                // of attention_decode
    float *logits;                 // [step, VP]
    int32_t *inputs;               // [4, step], of which the first n are the step's: cache rows, positions, tokens, and
                                   // the numbers of those whose logits are wanted

    // host
    int32_t *host_inputs; // page-locked, as inputs
    float *host_logits;   // page-locked, [slots, VP]
    DecoderToken *tokens; // [step]
};

// ---- memory: plan runs twice, to measure and to place

static size_t page_elements(const LlamaConfig *c) { // keys or values of a layer
    return (size_t)c->num_key_value_heads * PAGE_TOKENS * (size_t)c->head_dim;
}

int64_t decoder_fitting_pages(Llama3 *m, double share) {
    const LlamaConfig *c = llama3_config(m);
    const double page_bytes = 2.0 * c->num_hidden_layers * (double)(page_elements(c) * sizeof(floatX));
    size_t free_bytes = 0, total_bytes = 0;
    cuda_check(cudaMemGetInfo(&free_bytes, &total_bytes));
    const double pages = share * (double)free_bytes / page_bytes;
    return pages < 1 ? 1 : (int64_t)pages;
}

static size_t cache_elements(const Decoder *d) {
    return (size_t)pages_count(d->pages.pages) * page_elements(d->config);
}

static size_t table_bytes(const Decoder *d) { return (size_t)d->rows * (size_t)d->pages.row_pages * sizeof *d->table; }

static AttentionShape cache_shape(const Decoder *d) {
    return llama3_attention_shape(d->m, d->rows, d->pages.row_pages * PAGE_TOKENS);
}

static KvCache layer_cache(const Decoder *d, int l) {
    floatX *keys = d->cache + 2 * (size_t)l * cache_elements(d);
    return (KvCache){keys, keys + cache_elements(d), d->table, cache_shape(d)};
}

static void *take(Decoder *d, MemoryKind kind, size_t width, size_t element_size) {
    return memory_take(&d->memory, kind, (size_t)d->step * width * element_size);
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
    d->table = memory_take(&d->memory, kind, table_bytes(d));
    d->scratch =
        memory_take(&d->memory, kind, sizeof(float) * attention_decode_scratch(d->step, d->capacity, cache_shape(d)));
    d->logits = take(d, kind, (size_t)d->parameters->padded_vocab, sizeof(float));
    d->inputs = take(d, kind, 4, sizeof(int32_t));
}

static int allocate(Decoder *d, Error *err) {
    const size_t slots = (size_t)(d->rows > d->step ? d->rows : d->step);
    d->memory.advice = "a shorter context, or fewer texts at once,";
    d->memory.reserve_bytes = llama3_memory(d->m)->reserve_bytes;
    plan(d);
    int failed = memory_allocate(&d->memory, err);
    if (failed) return failed;
    plan(d);
    d->tokens = calloc((size_t)d->step, sizeof *d->tokens);
    if (!d->tokens) return fail_fault(err, "no memory for a decoder of %d rows", d->rows);
    cuda_check(cudaMallocHost((void **)&d->host_inputs, 4 * (size_t)d->step * sizeof(int32_t)));
    cuda_check(cudaMallocHost((void **)&d->host_logits, slots * (size_t)d->parameters->padded_vocab * sizeof(float)));
    return 0;
}

static int check_sizes(Llama3 *m, const DecoderSizes *s, Error *err) {
    enum { MOST = 65535 };
    const int rows = s->rows, step = s->step ? s->step : rows;
    if (rows < 1 || rows > MOST) return fail_input(err, "%d texts at once, expected 1 to %d", rows, MOST);
    if (step < 1 || step > MOST) return fail_input(err, "a step of %d tokens, expected 1 to %d", step, MOST);
    if (s->capacity < 1 || s->capacity > llama3_max_tokens(m))
        return fail_input(err, "a context of %d tokens, expected 1 to %d", s->capacity, llama3_max_tokens(m));
    if (llama3_parameters(m)->lora_rank && step > llama3_max_positions(m))
        return fail_input(err, "%d texts at once with adapters, expected at most %d", step, llama3_max_positions(m));
    return 0;
}

int decoder_create(Decoder **out, Llama3 *m, const DecoderSizes *sizes, Error *err) {
    int failed = check_sizes(m, sizes, err);
    if (failed) return failed;
    Decoder *d = calloc(1, sizeof *d);
    if (!d) return fail_fault(err, "no memory for a decoder");
    d->m = m;
    d->config = llama3_config(m);
    d->parameters = llama3_parameters(m);
    d->params = llama3_params(m);
    d->stream = llama3_stream(m);
    d->rows = sizes->rows;
    d->capacity = sizes->capacity;
    d->step = sizes->step ? sizes->step : sizes->rows;
    const int row_pages = (d->capacity + PAGE_TOKENS - 1) / PAGE_TOKENS;
    failed = page_table_create(&d->pages, d->rows, row_pages,
                               sizes->pages ? sizes->pages : (int64_t)d->rows * row_pages, err);
    if (!failed) failed = allocate(d, err);
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
    page_table_destroy(&d->pages);
    free(d->tokens);
    free(d);
}

int decoder_rows(const Decoder *d) { return d->rows; }
int decoder_capacity(const Decoder *d) { return d->capacity; }
int decoder_length(const Decoder *d, int row) { return d->pages.rows[row].length; }
PageTable *decoder_pages(Decoder *d) { return &d->pages; }

void decoder_pad_steps(Decoder *d, int tokens) { d->least = tokens < d->step ? tokens : d->step; }

void decoder_print_memory(const Decoder *d, FILE *to) {
    const MemoryPlan both = memory_sum(llama3_memory(d->m), &d->memory);
    memory_print(&both, to);
}

static float *slot_logits(const Decoder *d, int slot) {
    return d->host_logits + (size_t)slot * (size_t)d->parameters->padded_vocab;
}

static void download_logits(Decoder *d, int i, int slot) {
    const size_t VP = (size_t)d->parameters->padded_vocab;
    cuda_check(cudaMemcpyAsync(slot_logits(d, slot), d->logits + (size_t)i * VP, VP * sizeof(float),
                               cudaMemcpyDeviceToHost, d->stream));
}

static void upload_table(Decoder *d) {
    if (!d->pages.changed) return;
    cuda_check(cudaMemcpyAsync(d->table, d->pages.table, table_bytes(d), cudaMemcpyHostToDevice, d->stream));
    d->pages.changed = false;
}

const float *decoder_logits(const Decoder *d, int row) { return slot_logits(d, row); }

static int check_tokens(const Decoder *d, const int32_t *tokens, int n, Error *err) {
    const int V = d->config->vocab_size;
    for (int i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= V)
            return fail_input(err, "token %d has the id %d, the model's vocabulary has %d ids", i, tokens[i], V);
    return 0;
}

static int fail_pages(const Decoder *d, Error *err) {
    return fail_fault(err, "all %lld pages of the cache are taken", (long long)pages_count(d->pages.pages));
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
    page_table_clear(&d->pages, row); // its pages may be others' too
    if (!page_table_reserve(&d->pages, row, n)) return fail_pages(d, err);
    upload_table(d);
    Prompt prompt = {d, row, n};
    const LlamaConfig *c = d->config;
    const floatX *norm = llama3_forward_text(d->m, tokens, n, store_layer, &prompt);
    matmul(d->logits, MATMUL_OUT_FP32, norm + (size_t)(n - 1) * (size_t)c->hidden_size, d->params + d->parameters->head,
           1, d->parameters->padded_vocab, c->hidden_size, false, true, false, d->stream);
    download_logits(d, 0, row);
    cuda_check(cudaStreamSynchronize(d->stream));
    d->pages.rows[row].length = n;
    return 0;
}

// ---- a step

static int product_rows(const Decoder *d, int n) { return n < d->least ? d->least : n; }

static void project(Decoder *d, floatX *y, const floatX *x, int l, LayerUnit unit, int n) {
    llama3_project(d->m, y, x, l, unit, n, product_rows(d, n));
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
    const LayerOffsets *w = &d->parameters->layers[l];
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
    embedding_forward(d->residual, d->inputs + 2 * n, d->params + d->parameters->embedding, n, c->hidden_size,
                      d->stream);
    rmsnorm_forward(d->norm, d->rstd, d->residual, d->params + d->parameters->layers[0].attention_norm, n,
                    c->hidden_size, c->rms_norm_eps, d->stream);
    for (int l = 0; l < c->num_hidden_layers; l++) {
        if (l > 0) add_norm(d, d->parameters->layers[l].attention_norm, n);
        block(d, l, n, length);
    }
    add_norm(d, d->parameters->final_norm, n);
}

// Logits of the step's n tokens that have a slot.
static void compute_logits(Decoder *d, const DecoderToken *tokens, int n) {
    const floatX *norm = d->norm;
    const int *wanted = d->host_inputs + 3 * n, C = d->config->hidden_size;
    int count = 0;
    for (int i = 0; i < n; i++) count += tokens[i].slot >= 0;
    if (count > 0 && count < n) {
        embedding_forward(d->branch_out, d->inputs + 3 * n, d->norm, count, C, d->stream);
        norm = d->branch_out;
    }
    if (count > 0)
        matmul_same_rows(d->logits, MATMUL_OUT_FP32, norm, d->params + d->parameters->head, count,
                         product_rows(d, count), d->parameters->padded_vocab, C, d->stream);
    for (int i = 0; i < count; i++) download_logits(d, i, tokens[wanted[i]].slot);
    cuda_check(cudaStreamSynchronize(d->stream));
}

static int check_token(const Decoder *d, const DecoderToken *t, Error *err) {
    const int slots = d->rows > d->step ? d->rows : d->step, V = d->config->vocab_size;
    if (t->row < 0 || t->row >= d->rows) return fail_input(err, "row %d: expected one of the %d rows", t->row, d->rows);
    if (t->slot < -1 || t->slot >= slots) return fail_input(err, "slot %d, expected less than %d", t->slot, slots);
    if (t->token < 0 || t->token >= V)
        return fail_input(err, "row %d: a token has the id %d, the model's vocabulary has %d ids", t->row, t->token, V);
    return 0;
}

// Sets the inputs of token i of a step of n, which its row then holds.
static int place_token(Decoder *d, const DecoderToken *t, int i, int n, Error *err) {
    PageRow *row = &d->pages.rows[t->row];
    int code = check_token(d, t, err);
    if (code) return code;
    if (row->length == d->capacity)
        return fail_input(err, "row %d: its context of %d tokens is full", t->row, d->capacity);
    if (!page_table_reserve(&d->pages, t->row, row->length + 1)) return fail_pages(d, err);
    d->host_inputs[i] = t->row;
    d->host_inputs[n + i] = row->length++;
    d->host_inputs[2 * n + i] = t->token;
    return 0;
}

// The same of all. *length = that of the longest row. On an error the rows hold what they held.
static int place_tokens(Decoder *d, const DecoderToken *tokens, int n, int *length, Error *err) {
    int32_t *positions = d->host_inputs + n, *wanted = d->host_inputs + 3 * n, count = 0;
    *length = 0;
    for (int i = 0; i < n; i++) {
        const int code = place_token(d, &tokens[i], i, n, err);
        if (code) {
            while (i-- > 0) d->pages.rows[tokens[i].row].length--;
            return code;
        }
        if (positions[i] >= *length) *length = positions[i] + 1;
        if (tokens[i].slot >= 0) wanted[count++] = i;
    }
    while (count < n) wanted[count++] = 0;
    return 0;
}

int decoder_add(Decoder *d, const DecoderToken *tokens, int n, Error *err) {
    int length;
    if (n < 1 || n > d->step) return fail_input(err, "a step of %d tokens, expected 1 to %d", n, d->step);
    const int code = place_tokens(d, tokens, n, &length, err);
    if (code) return code;
    upload_table(d);
    cuda_check(
        cudaMemcpyAsync(d->inputs, d->host_inputs, 4 * (size_t)n * sizeof(int32_t), cudaMemcpyHostToDevice, d->stream));
    forward(d, n, length);
    compute_logits(d, tokens, n);
    return 0;
}

int decoder_step(Decoder *d, const int32_t *rows, const int32_t *tokens, int n, Error *err) {
    for (int i = 0; i < n && i < d->step; i++) d->tokens[i] = (DecoderToken){rows[i], tokens[i], rows[i]};
    return decoder_add(d, d->tokens, n, err);
}

// ---- copies

static void copy_page(Decoder *d, int32_t to, int32_t from) {
    const size_t page = page_elements(d->config);
    for (int l = 0; l < d->config->num_hidden_layers; l++) {
        const KvCache cache = layer_cache(d, l);
        floatX *const parts[] = {cache.keys, cache.values};
        for (int i = 0; i < 2; i++)
            cuda_check(cudaMemcpyAsync(parts[i] + (size_t)to * page, parts[i] + (size_t)from * page,
                                       page * sizeof(floatX), cudaMemcpyDeviceToDevice, d->stream));
    }
}

int decoder_copy(Decoder *d, int to, int from, Error *err) {
    int32_t old_page, new_page;
    if (to == from) return 0;
    if (!page_table_copy(&d->pages, to, from, &old_page, &new_page)) return fail_pages(d, err);
    if (new_page >= 0) copy_page(d, new_page, old_page);
    memcpy(slot_logits(d, to), slot_logits(d, from), (size_t)d->parameters->padded_vocab * sizeof(float));
    return 0;
}
