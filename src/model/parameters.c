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

// Side-by-side tensors must have no gap between them; 16-element units make every matrix a multiple of 256 elements.
static int check_sizes(const LlamaConfig *config, Error *err) {
    if (config->hidden_size % 16)
        return fail_input(err, "hidden_size is %d, expected a multiple of 16", config->hidden_size);
    if (config->intermediate_size % 16)
        return fail_input(err, "intermediate_size is %d, expected a multiple of 16", config->intermediate_size);
    return 0;
}

int parameter_table_build(ParameterTable *table, const LlamaConfig *config, Error *err) {
    int failed = check_sizes(config, err);
    if (failed) return failed;
    const int layers = config->num_hidden_layers, C = config->hidden_size;
    memset(table, 0, sizeof *table);
    table->tensors = calloc((size_t)layers * TENSORS_A_LAYER + OTHER_TENSORS, sizeof *table->tensors);
    table->layers = calloc((size_t)layers, sizeof *table->layers);
    if (!table->tensors || !table->layers) {
        parameter_table_free(table);
        return fail_fault(err, "no memory for the table of parameters");
    }
    table->padded_vocab = (int)round_up((size_t)config->vocab_size, VOCAB_ALIGN);
    table->embedding = add_vocabulary(table, config, "model.embed_tokens.weight");
    for (int layer = 0; layer < layers; layer++) add_layer_matrices(table, config, layer);
    table->head = config->tie_word_embeddings ? table->embedding : add_vocabulary(table, config, "lm_head.weight");
    table->num_decayed = table->num_elements;
    for (int layer = 0; layer < layers; layer++) {
        table->layers[layer].attention_norm = add_norm(table, layer, "input_layernorm", C);
        table->layers[layer].ffn_norm = add_norm(table, layer, "post_attention_layernorm", C);
    }
    table->final_norm = add(table, 1, 1, C, INIT_ONES, "model.norm.weight")->offset;
    return 0;
}

void parameter_table_free(ParameterTable *table) {
    free(table->tensors);
    free(table->layers);
    memset(table, 0, sizeof *table);
}

const ParameterTensor *parameter_table_find(const ParameterTable *table, const char *name) {
    for (int i = 0; i < table->count; i++)
        if (strcmp(table->tensors[i].name, name) == 0) return &table->tensors[i];
    return NULL;
}
