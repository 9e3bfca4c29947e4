#include "model/config.h"

#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/new_file.h"
#include "model/no_model.h"

#ifdef LLMC_PRECISION_fp32
static const char *const build_dtype = "float32";
#else
static const char *const build_dtype = "bfloat16";
#endif

// ---- The fields that are one number: name, place, bounds (both included).

typedef struct {
    const char *name;
    size_t offset;
    int min, max;
    int multiple; // of what the value must be; rows of 16 bytes, for the sizes
    int absent;   // value where the file has none; REQUIRED; DERIVED from other fields, and null means the same
} IntField;

enum { REQUIRED = -1, DERIVED = -2 };

#define INT_FIELD(name, min, max, multiple, absent)                                                                    \
    { #name, offsetof(LlamaConfig, name), min, max, multiple, absent }
static const IntField int_fields[] = {
    INT_FIELD(vocab_size, 2, 1 << 24, 1, REQUIRED),
    INT_FIELD(hidden_size, 8, 1 << 18, 8, REQUIRED),
    INT_FIELD(intermediate_size, 8, 1 << 20, 8, REQUIRED),
    INT_FIELD(num_hidden_layers, 1, 1 << 12, 1, REQUIRED),
    INT_FIELD(num_attention_heads, 1, 1 << 12, 1, REQUIRED),
    INT_FIELD(num_key_value_heads, 1, 1 << 12, 1, DERIVED),
    INT_FIELD(head_dim, 16, 256, 16, DERIVED),
    INT_FIELD(max_position_embeddings, 1, 1 << 27, 1, 2048),
};
static const size_t num_int_fields = sizeof int_fields / sizeof *int_fields;

static int *int_place(LlamaConfig *config, const IntField *field) { return (int *)((char *)config + field->offset); }

// ---- Reading. An object of the file, with what a message needs.

typedef struct {
    const cJSON *object;
    const char *path, *prefix; // prefix: "" or "rope_scaling."
    Error *err;
} Fields;

// null is absent
static const cJSON *present(const Fields *fields, const char *name) {
    const cJSON *item = json_get(fields->object, name);
    return cJSON_IsNull(item) ? NULL : item;
}

static int refuse(const Fields *fields, const char *name, const char *expected) {
    const cJSON *item = present(fields, name);
    if (item == NULL) {
        const char *state = json_get(fields->object, name) == NULL ? "missing" : "null";
        return fail_input(fields->err, "%s: %s%s is %s, expected %s", fields->path, fields->prefix, name, state,
                          expected);
    }
    char *found = cJSON_PrintUnformatted(item);
    int code = fail_input(fields->err, "%s: %s%s is %.80s, expected %s", fields->path, fields->prefix, name,
                          found != NULL ? found : "?", expected);
    cJSON_free(found);
    return code;
}

static int read_int(const Fields *fields, const char *name, int *value) {
    const cJSON *item = present(fields, name);
    double number = cJSON_IsNumber(item) ? item->valuedouble : NAN;
    if (!(number >= INT_MIN && number <= INT_MAX) || (double)(int)number != number) {
        return refuse(fields, name, "an integer of 32 bits");
    }
    *value = (int)number;
    return 0;
}

static int read_real(const Fields *fields, const char *name, double *value) {
    const cJSON *item = present(fields, name);
    if (!cJSON_IsNumber(item) || !isfinite(item->valuedouble)) return refuse(fields, name, "a finite number");
    *value = item->valuedouble;
    return 0;
}

// Absent: the value that transformers takes, which has no meaning for null.
static int read_real_or(const Fields *fields, const char *name, double absent, double *value) {
    *value = absent;
    return json_get(fields->object, name) == NULL ? 0 : read_real(fields, name, value);
}

static int read_bool(const Fields *fields, const char *name, bool absent, bool *value) {
    const cJSON *item = present(fields, name);
    if (item != NULL && !cJSON_IsBool(item)) return refuse(fields, name, "true or false");
    *value = item == NULL ? absent : cJSON_IsTrue(item);
    return 0;
}

// ---- What the file may say but we do not implement.

static bool is_string(const cJSON *item, const char *text) {
    return cJSON_IsString(item) && strcmp(item->valuestring, text) == 0;
}

#define LANGUAGE_MODEL "LlamaForCausalLM"
#define REWARD_MODEL "LlamaForSequenceClassification"

// The number of labels is num_labels, or that of id2label's entries; without either transformers takes two.
static int read_labels(LlamaConfig *config, const Fields *fields) {
    const char *const expected = "1: one label, with architectures [\"" REWARD_MODEL "\"]";
    const cJSON *number = present(fields, "num_labels"), *names = present(fields, "id2label");
    if (number == NULL && names == NULL) return refuse(fields, "num_labels", expected);
    if (number != NULL && !(cJSON_IsNumber(number) && number->valuedouble == 1))
        return refuse(fields, "num_labels", expected);
    if (names != NULL && !(cJSON_IsObject(names) && cJSON_GetArraySize(names) == 1))
        return refuse(fields, "id2label", "one label, with architectures [\"" REWARD_MODEL "\"]");
    config->num_labels = 1;
    return 0;
}

static int read_architecture(LlamaConfig *config, const Fields *fields) {
    if (!is_string(present(fields, "model_type"), "llama")) return refuse(fields, "model_type", "\"llama\"");
    const cJSON *names = present(fields, "architectures");
    if (names == NULL) return 0;
    if (cJSON_IsArray(names) && cJSON_GetArraySize(names) == 1) {
        if (is_string(names->child, LANGUAGE_MODEL)) return 0;
        if (is_string(names->child, REWARD_MODEL)) return read_labels(config, fields);
    }
    return refuse(fields, "architectures", "[\"" LANGUAGE_MODEL "\"] or [\"" REWARD_MODEL "\"]");
}

// Kinds of attention by layer: ours all see the whole document.
static int check_layer_types(const Fields *fields) {
    const cJSON *types = present(fields, "layer_types"), *type = NULL;
    if (types != NULL && !cJSON_IsArray(types)) return refuse(fields, "layer_types", "a list");
    cJSON_ArrayForEach(type, types) {
        if (!is_string(type, "full_attention"))
            return refuse(fields, "layer_types", "\"full_attention\" for every layer");
    }
    return 0;
}

static int check_unsupported(const Fields *fields) {
    static const char *const false_only[] = {"attention_bias", "mlp_bias"};
    for (size_t i = 0; i < sizeof false_only / sizeof *false_only; i++) {
        const cJSON *item = present(fields, false_only[i]);
        if (item != NULL && !cJSON_IsFalse(item))
            return refuse(fields, false_only[i], "false: projections have no bias");
    }
    static const char *const absent_only[] = {"quantization_config", "sliding_window", "num_local_experts"};
    for (size_t i = 0; i < sizeof absent_only / sizeof *absent_only; i++) {
        if (present(fields, absent_only[i]) != NULL) return refuse(fields, absent_only[i], "it absent: not supported");
    }
    const cJSON *act = present(fields, "hidden_act");
    if (act != NULL && !is_string(act, "silu")) return refuse(fields, "hidden_act", "\"silu\"");
    const cJSON *dropout = present(fields, "attention_dropout");
    if (dropout != NULL && !(cJSON_IsNumber(dropout) && dropout->valuedouble == 0)) {
        return refuse(fields, "attention_dropout", "0: not supported");
    }
    const cJSON *partial = present(fields, "partial_rotary_factor");
    if (partial != NULL && !(cJSON_IsNumber(partial) && partial->valuedouble == 1)) {
        return refuse(fields, "partial_rotary_factor", "1: the whole head is rotated");
    }
    return check_layer_types(fields);
}

// ---- RoPE: transformers 4 has rope_theta beside rope_scaling, transformers 5 all of it in rope_parameters.

static int read_rope_type(LlamaConfig *config, const Fields *rope) {
    static const char *const names[] = {"rope_type", "type"}; // the second by early files, both by some
    config->rope_type = ROPE_DEFAULT;
    const cJSON *type = NULL;
    for (size_t i = 0; i < 2; i++) {
        const cJSON *item = present(rope, names[i]);
        if (item == NULL) continue;
        if (!is_string(item, "default") && !is_string(item, "llama3"))
            return refuse(rope, names[i], "\"default\" or \"llama3\"");
        if (type != NULL && !is_string(item, type->valuestring)) return refuse(rope, names[i], "the same as rope_type");
        type = item;
    }
    if (type != NULL && is_string(type, "llama3")) config->rope_type = ROPE_LLAMA3;
    // without a type only theta may stand here
    const cJSON *only = rope->object->child;
    bool scaled = only != NULL && (only->next != NULL || strcmp(only->string, "rope_theta") != 0);
    return type == NULL && scaled ? refuse(rope, "rope_type", "\"default\" or \"llama3\"") : 0;
}

// What stands in the object and has no part in its type is not passed over: another reader may mean something
// by it.
static int check_rope_keys(const Fields *rope, RopeType type) {
    static const char *const names[] = {"rope_type",
                                        "type",
                                        "rope_theta",
                                        "partial_rotary_factor",
                                        "original_max_position_embeddings", // the first five with any type
                                        "factor",
                                        "low_freq_factor",
                                        "high_freq_factor"};
    const size_t known = type == ROPE_LLAMA3 ? 8 : 5;
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, rope->object) {
        bool found = cJSON_IsNull(item);
        for (size_t i = 0; i < known && !found; i++) found = strcmp(item->string, names[i]) == 0;
        if (!found)
            return refuse(rope, item->string,
                          type == ROPE_LLAMA3 ? "it absent with rope_type \"llama3\""
                                              : "it absent with rope_type \"default\"");
    }
    return 0;
}

static int read_llama3_scaling(LlamaConfig *config, const Fields *rope) {
    int code = read_real(rope, "factor", &config->rope_factor);
    if (code == 0) code = read_real(rope, "low_freq_factor", &config->rope_low_freq_factor);
    if (code == 0) code = read_real(rope, "high_freq_factor", &config->rope_high_freq_factor);
    if (code == 0) code = read_int(rope, "original_max_position_embeddings", &config->rope_original_max_position);
    return code;
}

// The theta of `fields`, if there is one; it must agree with one that was read before (*theta > 0).
static int read_theta(const Fields *fields, double *theta) {
    if (present(fields, "rope_theta") == NULL) return 0;
    double value = 0;
    int code = read_real(fields, "rope_theta", &value);
    if (code != 0) return code;
    if (!(value > 0)) return refuse(fields, "rope_theta", "a number above 0");
    if (*theta > 0 && *theta != value)
        return refuse(fields, "rope_theta", "the same as the other rope_theta in the file");
    *theta = value;
    return 0;
}

// One of the two objects into config's rope fields.
static int read_rope_object(LlamaConfig *config, const Fields *fields, const char *name) {
    Fields rope = *fields;
    rope.object = present(fields, name);
    rope.prefix = strcmp(name, "rope_scaling") == 0 ? "rope_scaling." : "rope_parameters.";
    if (!cJSON_IsObject(rope.object)) return refuse(fields, name, "an object");
    int code = json_check_unique(rope.object, rope.path, rope.prefix, rope.err);
    if (code == 0) code = read_rope_type(config, &rope);
    if (code == 0) code = check_rope_keys(&rope, config->rope_type);
    if (code == 0 && config->rope_type == ROPE_LLAMA3) code = read_llama3_scaling(config, &rope);
    if (code == 0) code = check_unsupported(&rope); // partial_rotary_factor stands here in transformers 5
    if (code == 0) code = read_theta(&rope, &config->rope_theta);
    return code;
}

static bool same_rope(const LlamaConfig *a, const LlamaConfig *b) {
    return a->rope_type == b->rope_type && a->rope_factor == b->rope_factor &&
           a->rope_low_freq_factor == b->rope_low_freq_factor && a->rope_high_freq_factor == b->rope_high_freq_factor &&
           a->rope_original_max_position == b->rope_original_max_position;
}

// An empty object says as little as none.
static bool has_object(const Fields *fields, const char *name) {
    const cJSON *item = present(fields, name);
    return item != NULL && !(cJSON_IsObject(item) && item->child == NULL);
}

// Some models have the length before scaling beside the object, where it would have precedence.
static int check_original_length(const LlamaConfig *config, const Fields *fields) {
    const char *const name = "original_max_position_embeddings";
    if (present(fields, name) == NULL || config->rope_type == ROPE_DEFAULT) return 0;
    int value = 0, code = read_int(fields, name, &value);
    if (code == 0 && value != config->rope_original_max_position)
        code = refuse(fields, name, "the same as in the RoPE scaling");
    return code;
}

static int read_rope(LlamaConfig *config, const Fields *fields) {
    bool old_style = has_object(fields, "rope_scaling"), new_style = has_object(fields, "rope_parameters");
    int code = read_theta(fields, &config->rope_theta);
    if (code == 0 && old_style) code = read_rope_object(config, fields, "rope_scaling");
    LlamaConfig old = *config;
    if (code == 0 && new_style) code = read_rope_object(config, fields, "rope_parameters");
    if (code == 0 && old_style && new_style && !same_rope(&old, config)) {
        code = refuse(fields, "rope_parameters", "the same as rope_scaling");
    }
    if (config->rope_theta == 0) config->rope_theta = 10000; // as in transformers
    return code == 0 ? check_original_length(config, fields) : code;
}

// ---- The rest of the fields.

static int read_sizes(LlamaConfig *config, const Fields *fields) {
    for (size_t i = 0; i < num_int_fields; i++) {
        const IntField *field = &int_fields[i];
        if (field->absent == DERIVED && present(fields, field->name) == NULL) continue;
        *int_place(config, field) = field->absent;
        if (field->absent >= 0 && json_get(fields->object, field->name) == NULL) continue;
        int code = read_int(fields, field->name, int_place(config, field));
        if (code != 0) return code;
    }
    if (present(fields, "num_key_value_heads") == NULL) config->num_key_value_heads = config->num_attention_heads;
    if (present(fields, "head_dim") != NULL || config->num_attention_heads < 1) return 0;
    if (config->hidden_size % config->num_attention_heads != 0) {
        return refuse(fields, "hidden_size", "a multiple of num_attention_heads, or head_dim given");
    }
    config->head_dim = config->hidden_size / config->num_attention_heads;
    return 0;
}

static int read_numbers(LlamaConfig *config, const Fields *fields) {
    double eps = 0;
    int code = read_real_or(fields, "rms_norm_eps", 1e-6, &eps);
    config->rms_norm_eps = (float)eps;
    if (code == 0) code = read_real_or(fields, "initializer_range", 0.02, &config->initializer_range);
    if (code == 0) code = read_bool(fields, "tie_word_embeddings", false, &config->tie_word_embeddings);
    return code;
}

static bool is_token_id(const cJSON *item) {
    uint64_t value;
    return json_is_count(item, INT_MAX, &value);
}

// Absent: Llama 1's and 2's token, as in transformers, if the vocabulary has it; null: none.
static int read_bos(LlamaConfig *config, const Fields *fields) {
    const cJSON *item = json_get(fields->object, "bos_token_id");
    config->bos_token_id = item == NULL && config->vocab_size > 1 ? 1 : -1;
    if (item == NULL || cJSON_IsNull(item)) return 0;
    return is_token_id(item) ? read_int(fields, "bos_token_id", &config->bos_token_id)
                             : refuse(fields, "bos_token_id", "a token id");
}

// Llama 3.1's instruct models list several end tokens.
static int read_eos(LlamaConfig *config, const Fields *fields) {
    const cJSON *item = json_get(fields->object, "eos_token_id");
    config->eos_token_id = item == NULL && config->vocab_size > 2 ? 2 : -1;
    if (item == NULL || cJSON_IsNull(item)) return 0;
    const cJSON *first = cJSON_IsArray(item) ? item->child : item;
    const cJSON *end = cJSON_IsArray(item) ? NULL : item->next;
    if (first == NULL) return refuse(fields, "eos_token_id", "a token id or a list of them");
    for (const cJSON *id = first; id != end; id = id->next) {
        if (!is_token_id(id)) return refuse(fields, "eos_token_id", "a token id or a list of them");
        int code = llama_config_add_end(config, id->valueint, fields->path, fields->err);
        if (code != 0) return code;
    }
    return 0;
}

// Old files have -1, and some an id beyond the vocabulary: none.
static void read_pad(LlamaConfig *config, const Fields *fields) {
    const cJSON *item = present(fields, "pad_token_id");
    config->pad_token_id = is_token_id(item) && item->valuedouble < config->vocab_size ? item->valueint : -1;
}

static int read_fields(LlamaConfig *config, const Fields *fields) {
    int code = json_check_unique(fields->object, fields->path, "", fields->err);
    if (code == 0) code = read_architecture(config, fields);
    if (code == 0) code = check_unsupported(fields);
    if (code == 0) code = read_sizes(config, fields);
    if (code == 0) code = read_numbers(config, fields);
    if (code == 0) code = read_rope(config, fields);
    if (code == 0) code = read_bos(config, fields);
    if (code == 0) code = read_eos(config, fields);
    read_pad(config, fields);
    return code;
}

bool llama_config_is_end(const LlamaConfig *config, int id) {
    bool found = id >= 0 && id == config->eos_token_id;
    for (int i = 0; i < config->num_more_eos_tokens && !found; i++) found = id == config->more_eos_token_ids[i];
    return found;
}

int llama_config_add_end(LlamaConfig *config, int id, const char *origin, Error *err) {
    if (llama_config_is_end(config, id)) return 0;
    if (config->eos_token_id < 0) {
        config->eos_token_id = id;
        return 0;
    }
    if (config->num_more_eos_tokens == LLAMA_MAX_EOS_TOKENS - 1)
        return fail_input(err, "%s: eos_token_id has more than %d ids", origin, LLAMA_MAX_EOS_TOKENS);
    config->more_eos_token_ids[config->num_more_eos_tokens++] = id;
    return 0;
}

// A folder without a configuration is perhaps no model's.
static int explain_folder(const char *path, Error *err) {
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    if (access(path, F_OK) == 0 || !slash || slash == path || slash - path >= (int)sizeof folder) return 0;
    snprintf(folder, sizeof folder, "%.*s", (int)(slash - path), path);
    return access(folder, F_OK) == 0 ? explain_no_model(folder, err) : 0;
}

int llama_config_read(LlamaConfig *config, const char *path, Error *err) {
    cJSON *json = NULL;
    int code = explain_folder(path, err);
    if (code == 0) code = json_read_object(&json, path, 1 << 24, err);
    if (code != 0) return code;
    LlamaConfig read = {0};
    Fields fields = {json, path, "", err};
    code = read_fields(&read, &fields);
    cJSON_Delete(json);
    if (code == 0) code = llama_config_check(&read, path, err);
    if (code == 0) *config = read;
    return code;
}

// ---- Bounds.

static int check_ints(const LlamaConfig *config, const char *origin, Error *err) {
    for (size_t i = 0; i < num_int_fields; i++) {
        const IntField *field = &int_fields[i];
        int value = *int_place((LlamaConfig *)config, field);
        if (value < field->min || value > field->max || value % field->multiple != 0) {
            return fail_input(err, "%s: %s is %d, expected a multiple of %d from %d to %d", origin, field->name, value,
                              field->multiple, field->min, field->max);
        }
    }
    if (config->num_attention_heads % config->num_key_value_heads != 0) {
        return fail_input(err, "%s: num_attention_heads is %d, expected a multiple of num_key_value_heads (%d)", origin,
                          config->num_attention_heads, config->num_key_value_heads);
    }
    return 0;
}

static int check_real(double value, double min, double max, const char *name, const char *origin, Error *err) {
    if (value >= min && value <= max) return 0; // false for NaN
    return fail_input(err, "%s: %s is %g, expected a number from %g to %g", origin, name, value, min, max);
}

static int check_rope(const LlamaConfig *config, const char *origin, Error *err) {
    int code = check_real(config->rope_theta, 1, 1e15, "rope_theta", origin, err);
    if (code != 0 || config->rope_type == ROPE_DEFAULT) return code;
    code = check_real(config->rope_factor, 1, 1e6, "factor of RoPE", origin, err);
    if (code == 0) code = check_real(config->rope_low_freq_factor, 1e-3, 1e6, "low_freq_factor of RoPE", origin, err);
    if (code == 0) code = check_real(config->rope_high_freq_factor, 1e-3, 1e6, "high_freq_factor of RoPE", origin, err);
    if (code == 0) {
        code = check_real(config->rope_original_max_position, 1, 1 << 27, "original_max_position_embeddings of RoPE",
                          origin, err);
    }
    if (code == 0 && config->rope_low_freq_factor >= config->rope_high_freq_factor) {
        code = fail_input(err, "%s: low_freq_factor of RoPE is %g, expected less than high_freq_factor (%g)", origin,
                          config->rope_low_freq_factor, config->rope_high_freq_factor);
    }
    return code;
}

static int check_token_id(int id, int vocab_size, const char *name, const char *origin, Error *err) {
    if (id >= -1 && id < vocab_size) return 0;
    return fail_input(err, "%s: %s is %d, expected an id below vocab_size (%d)", origin, name, id, vocab_size);
}

int llama_config_check(const LlamaConfig *config, const char *origin, Error *err) {
    int code = check_ints(config, origin, err);
    if (code == 0) code = check_real(config->rms_norm_eps, 1e-12, 0.1, "rms_norm_eps", origin, err);
    if (code == 0) code = check_real(config->initializer_range, 0, 1, "initializer_range", origin, err);
    if (code == 0) code = check_rope(config, origin, err);
    if (code == 0) code = check_token_id(config->bos_token_id, config->vocab_size, "bos_token_id", origin, err);
    if (code == 0) code = check_token_id(config->eos_token_id, config->vocab_size, "eos_token_id", origin, err);
    if (code == 0) code = check_token_id(config->pad_token_id, config->vocab_size, "pad_token_id", origin, err);
    if (code == 0 && config->num_labels != 0 && config->num_labels != 1)
        code = fail_input(err, "%s: num_labels is %d, expected 0 or 1", origin, config->num_labels);
    if (config->num_more_eos_tokens < 0 || config->num_more_eos_tokens >= LLAMA_MAX_EOS_TOKENS)
        code = fail_input(err, "%s: eos_token_id has %d ids beside its first", origin, config->num_more_eos_tokens);
    for (int i = 0; code == 0 && i < config->num_more_eos_tokens; i++) {
        code = check_token_id(config->more_eos_token_ids[i], config->vocab_size, "eos_token_id", origin, err);
    }
    return code;
}

int llama_config_demand_language_model(const LlamaConfig *config, const char *origin, Error *err) {
    if (config->num_labels == 0) return 0;
    return fail_input(err, "%s: architectures is [\"" REWARD_MODEL "\"], a reward model, expected a language model",
                      origin);
}

// ---- Writing. cJSON's own number printing may lose the last bit, and prints 1.0 as 1, where transformers
// wants a float.

static void add_real(cJSON *object, const char *name, double value, bool is_float) {
    char text[40];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text - 2, "%.*g", digits, value);
        double back = is_float ? (double)strtof(text, NULL) : strtod(text, NULL);
        if (back == value) break;
    }
    if (strpbrk(text, ".e") == NULL) strcat(text, ".0");
    cJSON_AddRawToObject(object, name, text);
}

static void add_token_id(cJSON *json, const char *name, int id) {
    if (id < 0)
        cJSON_AddNullToObject(json, name);
    else
        cJSON_AddNumberToObject(json, name, id);
}

void llama_config_add_tokens(cJSON *json, const LlamaConfig *config) {
    add_token_id(json, "bos_token_id", config->bos_token_id);
    if (config->num_more_eos_tokens == 0) {
        add_token_id(json, "eos_token_id", config->eos_token_id);
        return;
    }
    cJSON *ids = cJSON_AddArrayToObject(json, "eos_token_id");
    cJSON_AddItemToArray(ids, cJSON_CreateNumber(config->eos_token_id));
    for (int i = 0; i < config->num_more_eos_tokens; i++)
        cJSON_AddItemToArray(ids, cJSON_CreateNumber(config->more_eos_token_ids[i]));
}

static bool has_padding(const LlamaConfig *config) {
    const int id = config->pad_token_id;
    return id >= 0 && (config->num_labels == 0 || !llama_config_is_end(config, id));
}

static void add_label(cJSON *json) {
    cJSON_AddNumberToObject(json, "num_labels", 1);
    cJSON_AddStringToObject(cJSON_AddObjectToObject(json, "id2label"), "0", "LABEL_0");
    cJSON_AddNumberToObject(cJSON_AddObjectToObject(json, "label2id"), "LABEL_0", 0);
}

static void add_scaling(cJSON *object, const LlamaConfig *config) {
    cJSON_AddStringToObject(object, "rope_type", config->rope_type == ROPE_LLAMA3 ? "llama3" : "default");
    if (config->rope_type == ROPE_DEFAULT) return;
    add_real(object, "factor", config->rope_factor, false);
    add_real(object, "low_freq_factor", config->rope_low_freq_factor, false);
    add_real(object, "high_freq_factor", config->rope_high_freq_factor, false);
    cJSON_AddNumberToObject(object, "original_max_position_embeddings", config->rope_original_max_position);
}

// Both spellings: each version of transformers reads its own and passes over, or agrees with, the other.
static void add_rope(cJSON *json, const LlamaConfig *config) {
    add_real(json, "rope_theta", config->rope_theta, false);
    if (config->rope_type == ROPE_DEFAULT)
        cJSON_AddNullToObject(json, "rope_scaling");
    else
        add_scaling(cJSON_AddObjectToObject(json, "rope_scaling"), config);
    cJSON *parameters = cJSON_AddObjectToObject(json, "rope_parameters");
    add_real(parameters, "rope_theta", config->rope_theta, false);
    add_scaling(parameters, config);
}

static void add_fields(cJSON *json, const LlamaConfig *config) {
    cJSON *names = cJSON_AddArrayToObject(json, "architectures");
    cJSON_AddItemToArray(names, cJSON_CreateString(config->num_labels ? REWARD_MODEL : LANGUAGE_MODEL));
    cJSON_AddStringToObject(json, "model_type", "llama");
    for (size_t i = 0; i < num_int_fields; i++) {
        cJSON_AddNumberToObject(json, int_fields[i].name, *int_place((LlamaConfig *)config, &int_fields[i]));
    }
    cJSON_AddStringToObject(json, "hidden_act", "silu");
    add_real(json, "rms_norm_eps", config->rms_norm_eps, true);
    add_real(json, "initializer_range", config->initializer_range, false);
    add_rope(json, config);
    cJSON_AddBoolToObject(json, "tie_word_embeddings", config->tie_word_embeddings);
    cJSON_AddFalseToObject(json, "attention_bias");
    cJSON_AddFalseToObject(json, "mlp_bias");
    add_real(json, "attention_dropout", 0, false);
    llama_config_add_tokens(json, config);
    if (has_padding(config)) cJSON_AddNumberToObject(json, "pad_token_id", config->pad_token_id);
    if (config->num_labels) add_label(json);
    cJSON_AddTrueToObject(json, "use_cache");
    cJSON_AddStringToObject(json, "torch_dtype", build_dtype);
    cJSON_AddStringToObject(json, "dtype", build_dtype);
}

int llama_config_print(const LlamaConfig *config, const char *path, char **text, Error *err) {
    int code = llama_config_check(config, path, err);
    if (code != 0) return code;
    cJSON *json = cJSON_CreateObject();
    add_fields(json, config);
    *text = cJSON_Print(json);
    cJSON_Delete(json);
    return *text == NULL ? fail_fault(err, "%s: no memory for its text", path) : 0;
}

int llama_config_write(const LlamaConfig *config, const char *path, Error *err) {
    char *text = NULL;
    int code = llama_config_print(config, path, &text, err);
    if (code != 0) return code;
    code = file_write_whole(path, text, strlen(text), err);
    cJSON_free(text);
    return code;
}
