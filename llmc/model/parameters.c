#include "model/parameters.h"

#include <fnmatch.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NORMS_A_LAYER = 2, OTHER_TENSORS = 3 };

static size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

// ---- which tensors there are, in the order of a checkpoint

// Adds a tensor, a unit of its own, to the bucket that is being filled.
static ParameterTensor *add(ParameterTable *table, int depth, int dims, int rows, int cols, ParameterInit init,
                            const char *format, ...) __attribute__((format(printf, 7, 8)));

static ParameterTensor *add(ParameterTable *table, int depth, int dims, int rows, int cols, ParameterInit init,
                            const char *format, ...) {
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
    t->bucket = table->num_buckets;
    t->unit = table->count;
    t->depth = depth;
    table->num_parameters += parameter_elements(t);
    return t;
}

// Embedding and head have one row for each token, padded so that products and kernels work on whole tiles.
static void add_vocabulary(ParameterTable *table, const LlamaConfig *config, int depth, const char *name) {
    ParameterTensor *t = add(table, depth, 2, config->vocab_size, config->hidden_size, INIT_NORMAL, "%s", name);
    t->padded_rows = table->padded_vocab;
}

static const struct {
    const char *module, *name;
    LayerUnit unit;
} projections[LAYER_PROJECTIONS] = {
    {"self_attn", "q_proj", UNIT_QKV},    {"self_attn", "k_proj", UNIT_QKV},  {"self_attn", "v_proj", UNIT_QKV},
    {"self_attn", "o_proj", UNIT_OUTPUT}, {"mlp", "gate_proj", UNIT_GATE_UP}, {"mlp", "up_proj", UNIT_GATE_UP},
    {"mlp", "down_proj", UNIT_DOWN},
};
enum { Q_PROJ, K_PROJ, V_PROJ, O_PROJ, GATE_PROJ, UP_PROJ, DOWN_PROJ };

const char *lora_target_name(int projection) { return projections[projection].name; }

static int projection_rows(const LlamaConfig *config, int projection) {
    if (projection == Q_PROJ) return config->num_attention_heads * config->head_dim;
    if (projections[projection].unit == UNIT_QKV) return config->num_key_value_heads * config->head_dim;
    return projections[projection].unit == UNIT_GATE_UP ? config->intermediate_size : config->hidden_size;
}

static int projection_cols(const LlamaConfig *config, int projection) {
    if (projection == O_PROJ) return config->num_attention_heads * config->head_dim;
    return projection == DOWN_PROJ ? config->intermediate_size : config->hidden_size;
}

static int projection_depth(int layer, int projection) { return 2 * layer + (projection >= GATE_PROJ); }

// Tensors of one unit are added one after the other.
static void add_projection(ParameterTable *table, const LlamaConfig *config, int layer, int p) {
    const ParameterInit init = p == O_PROJ || p == DOWN_PROJ ? INIT_RESIDUAL : INIT_NORMAL;
    ParameterTensor *t =
        add(table, projection_depth(layer, p), 2, projection_rows(config, p), projection_cols(config, p), init,
            "model.layers.%d.%s.%s.weight", layer, projections[p].module, projections[p].name);
    if (p && projections[p].unit == projections[p - 1].unit) t->unit = t[-1].unit;
}

static void add_adapter(ParameterTable *table, const LlamaConfig *config, int layer, int p) {
    const char *const format = "base_model.model.model.layers.%d.%s.%s.lora_%c.weight";
    const char *const module = projections[p].module, *const name = projections[p].name;
    const int depth = projection_depth(layer, p), rank = table->lora_rank;
    add(table, depth, 2, rank, projection_cols(config, p), INIT_KAIMING, format, layer, module, name, 'A');
    add(table, depth, 2, projection_rows(config, p), rank, INIT_ZEROS, format, layer, module, name, 'B');
}

static void add_layer_matrices(ParameterTable *table, const LlamaConfig *config, int layer) {
    for (int p = 0; p < LAYER_PROJECTIONS; p++) add_projection(table, config, layer, p);
    for (int p = 0; p < LAYER_PROJECTIONS; p++)
        if (table->lora_targets[p]) add_adapter(table, config, layer, p);
}

// What was added since the last bucket ended is one bucket. Returns its number.
static int end_bucket(ParameterTable *table, bool decay, const char *format, ...) __attribute__((format(printf, 3, 4)));

static int end_bucket(ParameterTable *table, bool decay, const char *format, ...) {
    ParameterBucket *b = &table->buckets[table->num_buckets];
    va_list args;
    va_start(args, format);
    vsnprintf(b->label, sizeof b->label, format, args);
    va_end(args);
    b->decay = decay;
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

static void add_head(ParameterTable *table, const LlamaConfig *config) {
    const int depth = 2 * config->num_hidden_layers + 1;
    if (config->num_labels) {
        add(table, depth, 2, config->num_labels, config->hidden_size, INIT_NORMAL, "score.weight");
        table->head_bucket = end_bucket(table, true, "score");
    } else if (!config->tie_word_embeddings) {
        add_vocabulary(table, config, depth, "lm_head.weight");
        table->head_bucket = end_bucket(table, true, "head");
    }
}

static void add_matrices(ParameterTable *table, const LlamaConfig *config) {
    add_vocabulary(table, config, -1, "model.embed_tokens.weight");
    end_bucket(table, true, "embedding");
    for (int layer = 0; layer < config->num_hidden_layers; layer++) {
        add_layer_matrices(table, config, layer);
        end_bucket(table, true, "layer %d", layer);
    }
    add_head(table, config);
}

static void add_norm(ParameterTable *table, int depth, const char *name, int cols) {
    add(table, depth, 1, 1, cols, INIT_ONES, "model.layers.%d.%s.weight", depth / 2, name);
}

static void add_norms(ParameterTable *table, const LlamaConfig *config) {
    const int C = config->hidden_size, L = config->num_hidden_layers;
    for (int layer = 0; layer < L; layer++) {
        add_norm(table, 2 * layer, "input_layernorm", C);
        add_norm(table, 2 * layer + 1, "post_attention_layernorm", C);
    }
    add(table, 2 * L, 1, 1, C, INIT_ONES, "model.norm.weight");
    table->norm_bucket = end_bucket(table, false, "norms");
}

// ---- which of them are trained

static int take_target(ParameterTable *table, const char *name, Error *err) {
    for (int p = 0; p < LAYER_PROJECTIONS; p++) {
        if (strcmp(name, projections[p].name) != 0) continue;
        table->lora_targets[p] = true;
        return 0;
    }
    return fail_input(
        err, "--lora-targets: expected some of q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj, found '%.60s'",
        name);
}

static int take_targets(ParameterTable *table, const char *names, Error *err) {
    char *copy = strdup(names), *rest = copy, *name;
    int code = copy ? 0 : fail_fault(err, "no memory for the table of parameters");
    while (!code && (name = strsep(&rest, ","))) code = take_target(table, name, err);
    free(copy);
    return code;
}

static int choose_adapters(ParameterTable *table, const TrainedPart *part, Error *err) {
    if (!part || part->lora_rank == 0) return 0;
    if (part->lora_rank < 1 || part->lora_rank > LORA_MAX_RANK || part->lora_rank % LORA_RANK_UNIT)
        return fail_input(err, "--lora-rank %d: expected a multiple of %d up to %d: rows of 16 bytes", part->lora_rank,
                          LORA_RANK_UNIT, LORA_MAX_RANK);
    table->lora_rank = part->lora_rank;
    table->lora_alpha = part->lora_alpha;
    if (part->lora_targets) return take_targets(table, part->lora_targets, err);
    for (int p = 0; p < LAYER_PROJECTIONS; p++) table->lora_targets[p] = true;
    return 0;
}

bool parameter_is_adapter(const ParameterTensor *t) { return t->init == INIT_KAIMING || t->init == INIT_ZEROS; }

static bool train_matching(ParameterTable *table, const char *pattern) {
    bool found = false;
    for (int i = 0; i < table->count; i++) {
        if (fnmatch(pattern, table->tensors[i].name, 0) != 0) continue;
        table->tensors[i].trained = found = true;
    }
    return found;
}

// Why a pattern for lm_head finds nothing: what the model has in its place.
static const char *explain_head(const ParameterTable *table, const char *pattern) {
    if (fnmatch(pattern, "lm_head.weight", 0) != 0) return "";
    if (parameter_table_find(table, "score.weight")) return ": a reward model has score.weight in the place of lm_head";
    return ": its head is tied to the embedding (tie_word_embeddings), so that it is model.embed_tokens.weight";
}

static int train_only(ParameterTable *table, const char *patterns, Error *err) {
    char *copy = strdup(patterns), *rest = copy, *pattern;
    if (!copy) return fail_fault(err, "no memory for the table of parameters");
    int code = 0;
    while (!code && (pattern = strsep(&rest, ",")))
        if (!train_matching(table, pattern))
            code = fail_input(err, "--train-only '%.200s': expected names of tensors, '%.100s' matches none%s",
                              patterns, pattern, explain_head(table, pattern));
    free(copy);
    return code;
}

static void train_all(ParameterTable *table) {
    for (int i = 0; i < table->count; i++) table->tensors[i].trained = true;
}

// A reward model's head is trained with them: it is new, or was trained with them before.
static void train_adapters(ParameterTable *table) {
    for (int i = 0; i < table->count; i++) {
        ParameterTensor *t = &table->tensors[i];
        t->trained = parameter_is_adapter(t) || strcmp(t->name, "score.weight") == 0;
    }
}

static int choose_trained(ParameterTable *table, const TrainedPart *part, Error *err) {
    int code = 0;
    if (part && part->only)
        code = train_only(table, part->only, err);
    else if (table->lora_rank)
        train_adapters(table);
    else
        train_all(table);
    table->lowest = INT_MAX;
    for (int i = 0; i < table->count; i++) {
        const ParameterTensor *t = &table->tensors[i];
        if (!t->trained) continue;
        table->num_trained += parameter_elements(t);
        if (t->depth < table->lowest) table->lowest = t->depth;
    }
    return code;
}

// ---- where they stand

static void place(ParameterTable *table, ParameterTensor *t) {
    t->offset = table->num_elements;
    table->num_elements += round_up((size_t)t->padded_rows * (size_t)t->cols, PARAMETER_ALIGN);
    t->end = table->num_elements;
}

static bool unit_is_trained(const ParameterTable *table, int tensor) {
    const ParameterTensor *t = &table->tensors[tensor], *last = &table->tensors[table->count - 1];
    while (t > table->tensors && t[-1].unit == t->unit) t--;
    const int unit = t->unit;
    for (; t <= last && t->unit == unit; t++)
        if (t->trained) return true;
    return false;
}

static bool in_bucket(const ParameterTable *table, int tensor) {
    return table->tensors[tensor].bucket == table->norm_bucket || unit_is_trained(table, tensor);
}

// Places the tensors of the bucket, from *next on. What is left at its end stays zero.
static void place_bucket(ParameterTable *table, int bucket, int *next) {
    ParameterBucket *b = &table->buckets[bucket];
    ParameterTensor *last = NULL;
    b->begin = table->num_elements;
    for (; *next < table->count && table->tensors[*next].bucket == bucket; ++*next) {
        if (!in_bucket(table, *next)) continue;
        last = &table->tensors[*next];
        place(table, last);
    }
    b->end = b->begin + round_up(table->num_elements - b->begin, (size_t)table->shards * PARAMETER_ALIGN);
    table->num_elements = b->end;
    if (last) last->end = b->end;
}

static void place_buckets(ParameterTable *table) {
    int next = 0;
    for (int bucket = 0; bucket < table->num_buckets; bucket++) place_bucket(table, bucket, &next);
    table->num_decayed = table->buckets[table->norm_bucket].begin;
    table->num_trained_elements = table->num_elements;
    table->num_shard_elements = table->num_elements / (size_t)table->shards;
}

static void place_frozen(ParameterTable *table) {
    for (int i = 0; i < table->count; i++)
        if (!in_bucket(table, i)) place(table, &table->tensors[i]);
}

static void find_ranges(ParameterTable *table) {
    ParameterRange *range = NULL;
    for (const ParameterTensor *t = table->tensors; t < table->tensors + table->count; t++) {
        if (!t->trained) continue;
        if (!range || range->bucket != t->bucket || range->end != t->offset) {
            range = &table->ranges[table->num_ranges++];
            *range = (ParameterRange){t->bucket, t->offset, t->offset};
        }
        range->end = t->end;
    }
}

// t: its lora_A, which lora_B follows; first: its first column of the unit's product.
static void note_adapter(LayerOffsets *at, LayerUnit unit, const ParameterTensor *t, int first) {
    at->adapters[at->num_adapters++] = (LoraAdapter){
        .unit = unit, .in = t[0].cols, .out = t[1].rows, .first = first, .a = t[0].offset, .b = t[1].offset};
}

// Notes the tensors of a layer, norms left out, from t on. Returns the tensor after them.
static const ParameterTensor *note_layer(const ParameterTable *table, LayerOffsets *at, const ParameterTensor *t) {
    const ParameterTensor *adapter = t + LAYER_PROJECTIONS;
    size_t *const units[LAYER_UNITS] = {&at->qkv, &at->output, &at->gate_up, &at->down};
    int first = 0;
    for (int p = 0; p < LAYER_PROJECTIONS; p++, t++) {
        const LayerUnit unit = projections[p].unit;
        const bool begins = p == 0 || projections[p - 1].unit != unit;
        if (begins) {
            *units[unit] = t->offset;
            first = 0;
        }
        if (table->lora_targets[p]) {
            note_adapter(at, unit, adapter, first);
            adapter += 2;
        }
        first += t->rows;
    }
    return adapter;
}

static void note_offsets(ParameterTable *table, const LlamaConfig *config) {
    const ParameterTensor *matrix = table->tensors + 1, *norm = table->tensors + table->count - 1;
    table->embedding = table->tensors[0].offset;
    table->final_norm = norm->offset;
    norm -= NORMS_A_LAYER * config->num_hidden_layers;
    for (int l = 0; l < config->num_hidden_layers; l++, norm += NORMS_A_LAYER) {
        table->layers[l] = (LayerOffsets){.attention_norm = norm[0].offset, .ffn_norm = norm[1].offset};
        matrix = note_layer(table, &table->layers[l], matrix);
    }
    table->head = table->head_bucket ? matrix->offset : table->embedding;
}

static int allocate(ParameterTable *table, size_t layers, Error *err) {
    const size_t matrices = LAYER_PROJECTIONS * (table->lora_rank ? 3 : 1);
    const size_t tensors = layers * (matrices + NORMS_A_LAYER) + OTHER_TENSORS;
    table->tensors = calloc(tensors, sizeof *table->tensors);
    table->ranges = calloc(tensors, sizeof *table->ranges);
    table->layers = calloc(layers, sizeof *table->layers);
    table->buckets = calloc(layers + OTHER_TENSORS, sizeof *table->buckets);
    if (table->tensors && table->ranges && table->layers && table->buckets) return 0;
    return fail_fault(err, "no memory for the table of parameters");
}

int parameter_table_build(ParameterTable *table, const LlamaConfig *config, int shards, const TrainedPart *part,
                          Error *err) {
    int code = check_sizes(config, err);
    if (code) return code;
    *table = (ParameterTable){.shards = shards, .padded_vocab = (int)round_up((size_t)config->vocab_size, VOCAB_ALIGN)};
    code = choose_adapters(table, part, err);
    if (!code) code = allocate(table, (size_t)config->num_hidden_layers, err);
    if (!code) {
        add_matrices(table, config);
        add_norms(table, config);
        code = choose_trained(table, part, err);
    }
    if (code) {
        parameter_table_free(table);
        return code;
    }
    place_buckets(table);
    place_frozen(table);
    find_ranges(table);
    note_offsets(table, config);
    return 0;
}

ParameterPiece parameter_piece(const ParameterTable *table, int tensor, int shard) {
    const ParameterTensor *t = &table->tensors[tensor];
    const ParameterBucket *b = &table->buckets[t->bucket];
    if (!t->trained) return (ParameterPiece){0};
    const size_t length = (b->end - b->begin) / (size_t)table->shards, begin = b->begin + (size_t)shard * length;
    const size_t tensor_end = t->offset + (size_t)t->rows * (size_t)t->cols;
    const size_t low = begin > t->offset ? begin : t->offset;
    const size_t high = begin + length < tensor_end ? begin + length : tensor_end;
    if (low >= high) return (ParameterPiece){0};
    // the shard's pieces of the buckets before this one have begin / shards elements
    return (ParameterPiece){low - t->offset, high - low, b->begin / (size_t)table->shards + (low - begin)};
}

void parameter_table_free(ParameterTable *table) {
    free(table->tensors);
    free(table->layers);
    free(table->buckets);
    free(table->ranges);
    memset(table, 0, sizeof *table);
}

const ParameterTensor *parameter_table_find(const ParameterTable *table, const char *name) {
    for (int i = 0; i < table->count; i++)
        if (strcmp(table->tensors[i].name, name) == 0) return &table->tensors[i];
    return NULL;
}
