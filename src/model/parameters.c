#include "model/parameters.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TENSORS_A_LAYER = 9, OTHER_TENSORS = 3 };

static size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

static ParameterTensor *add(ParameterTable *table, int dims, int rows, int cols, ParameterInit init, const char *format,
                            ...) __attribute__((format(printf, 6, 7)));

static ParameterTensor *add(ParameterTable *table, int dims, int rows, int cols, ParameterInit init, const char *format,
                            ...) {
    ParameterTensor *t = &table->tensors[table->count++];
    va_list args;
    va_start(args, format);
    vsnprintf(t->name, sizeof t->name, format, args);
    va_end(args);
    t->dims = dims;
    t->rows = t->padded_rows = rows;
    t->cols = cols;
    t->init = init;
    t->decay = dims == 2;
    t->offset = table->num_elements;
    table->num_parameters += (size_t)rows * cols;
    table->num_elements += round_up((size_t)rows * cols, PARAMETER_ALIGN);
    return t;
}

// Embedding and head have one row for each token, padded so that products and kernels meet whole tiles.
static size_t add_vocabulary(ParameterTable *table, const LlamaConfig *config, const char *name) {
    ParameterTensor *t = add(table, 2, config->vocab_size, config->hidden_size, INIT_NORMAL, "%s", name);
    t->padded_rows = table->padded_vocab;
    table->num_elements = t->offset + (size_t)t->padded_rows * t->cols;
    return t->offset;
}

static size_t add_matrix(ParameterTable *table, int layer, const char *name, int rows, int cols, ParameterInit init) {
    return add(table, 2, rows, cols, init, "model.layers.%d.%s.weight", layer, name)->offset;
}

static size_t add_norm(ParameterTable *table, int layer, const char *name, int cols) {
    return add(table, 1, 1, cols, INIT_ONES, "model.layers.%d.%s.weight", layer, name)->offset;
}

static void add_layer_matrices(ParameterTable *table, const LlamaConfig *config, int layer) {
    const int C = config->hidden_size, F = config->intermediate_size, HD = config->head_dim;
    const int queries = config->num_attention_heads * HD, keys = config->num_key_value_heads * HD;
    LayerOffsets *at = &table->layers[layer];
    at->qkv = add_matrix(table, layer, "self_attn.q_proj", queries, C, INIT_NORMAL);
    add_matrix(table, layer, "self_attn.k_proj", keys, C, INIT_NORMAL);
    add_matrix(table, layer, "self_attn.v_proj", keys, C, INIT_NORMAL);
    at->output = add_matrix(table, layer, "self_attn.o_proj", C, queries, INIT_RESIDUAL);
    at->gate_up = add_matrix(table, layer, "mlp.gate_proj", F, C, INIT_NORMAL);
    add_matrix(table, layer, "mlp.up_proj", F, C, INIT_NORMAL);
    at->down = add_matrix(table, layer, "mlp.down_proj", C, F, INIT_RESIDUAL);
}

// All that was added behind the last bucket becomes one; what is left of its last pieces stays zero. Returns its number.
static int close_bucket(ParameterTable *table, bool decay, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static int close_bucket(ParameterTable *table, bool decay, const char *format, ...) {
    ParameterBucket *b = &table->buckets[table->num_buckets];
    va_list args;
    va_start(args, format);
    vsnprintf(b->label, sizeof b->label, format, args);
    va_end(args);
    b->begin = table->num_buckets ? b[-1].end : 0;
    b->end = b->begin + round_up(table->num_elements - b->begin, (size_t)table->shards * PARAMETER_ALIGN);
    b->decay = decay;
    table->num_elements = b->end;
    return table->num_buckets++;
}

// Side-by-side tensors must have no gap between them; 16-element units make every matrix a multiple of 256 elements.
static int check_sizes(const LlamaConfig *config, Error *err) {
    if (config->hidden_size % 16)
        return fail_input(err, "hidden_size is %d, expected a multiple of 16", config->hidden_size);
    if (config->intermediate_size % 16)
        return fail_input(err, "intermediate_size is %d, expected a multiple of 16", config->intermediate_size);
    return 0;
}

static void add_matrices(ParameterTable *table, const LlamaConfig *config) {
    table->embedding = add_vocabulary(table, config, "model.embed_tokens.weight");
    close_bucket(table, true, "embedding");
    for (int layer = 0; layer < config->num_hidden_layers; layer++) {
        add_layer_matrices(table, config, layer);
        close_bucket(table, true, "layer %d", layer);
    }
    table->head = table->embedding;
    if (config->num_labels) {
        table->head = add(table, 2, config->num_labels, config->hidden_size, INIT_NORMAL, "score.weight")->offset;
        table->head_bucket = close_bucket(table, true, "score");
        return;
    }
    if (config->tie_word_embeddings) return;
    table->head = add_vocabulary(table, config, "lm_head.weight");
    table->head_bucket = close_bucket(table, true, "head");
}

static void add_norms(ParameterTable *table, const LlamaConfig *config) {
    const int C = config->hidden_size;
    for (int layer = 0; layer < config->num_hidden_layers; layer++) {
        table->layers[layer].attention_norm = add_norm(table, layer, "input_layernorm", C);
        table->layers[layer].ffn_norm = add_norm(table, layer, "post_attention_layernorm", C);
    }
    table->final_norm = add(table, 1, 1, C, INIT_ONES, "model.norm.weight")->offset;
    table->norm_bucket = close_bucket(table, false, "norms");
}

int parameter_table_build(ParameterTable *table, const LlamaConfig *config, int shards, Error *err) {
    int failed = check_sizes(config, err);
    if (failed) return failed;
    const size_t layers = (size_t)config->num_hidden_layers;
    memset(table, 0, sizeof *table);
    table->shards = shards;
    table->tensors = calloc(layers * TENSORS_A_LAYER + OTHER_TENSORS, sizeof *table->tensors);
    table->layers = calloc(layers, sizeof *table->layers);
    table->buckets = calloc(layers + OTHER_TENSORS, sizeof *table->buckets);
    if (!table->tensors || !table->layers || !table->buckets) {
        parameter_table_free(table);
        return fail_fault(err, "no memory for the table of parameters");
    }
    table->padded_vocab = (int)round_up((size_t)config->vocab_size, VOCAB_ALIGN);
    add_matrices(table, config);
    table->num_decayed = table->num_elements;
    add_norms(table, config);
    table->num_shard_elements = table->num_elements / (size_t)shards;
    return 0;
}

static const ParameterBucket *bucket_of(const ParameterTable *table, size_t offset) {
    const ParameterBucket *b = table->buckets;
    while (offset >= b->end) b++;
    return b;
}

ParameterPiece parameter_piece(const ParameterTable *table, int tensor, int shard) {
    const ParameterTensor *t = &table->tensors[tensor];
    const ParameterBucket *b = bucket_of(table, t->offset);
    const size_t length = (b->end - b->begin) / (size_t)table->shards, begin = b->begin + (size_t)shard * length;
    const size_t tensor_end = t->offset + (size_t)t->rows * (size_t)t->cols;
    const size_t low = begin > t->offset ? begin : t->offset;
    const size_t high = begin + length < tensor_end ? begin + length : tensor_end;
    if (low >= high) return (ParameterPiece){0};
    // the pieces of the buckets before this one take begin / shards elements
    return (ParameterPiece){low - t->offset, high - low, b->begin / (size_t)table->shards + (low - begin)};
}

void parameter_table_free(ParameterTable *table) {
    free(table->tensors);
    free(table->layers);
    free(table->buckets);
    memset(table, 0, sizeof *table);
}

const ParameterTensor *parameter_table_find(const ParameterTable *table, const char *name) {
    for (int i = 0; i < table->count; i++)
        if (strcmp(table->tensors[i].name, name) == 0) return &table->tensors[i];
    return NULL;
}
