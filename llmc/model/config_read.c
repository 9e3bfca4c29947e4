// A configuration out of a config.json, in the spelling of transformers 4 or 5.
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "model/config_fields.h"
#include "model/no_model.h"

// ---- an object of the file, with what a message needs

typedef struct {
    const cJSON *object;
    const char *path, *prefix; // prefix: "" or "rope_scaling."
    Error *err;
} Fields;

// A field that is null counts as absent.
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

// A field that is absent has the value that transformers takes; null is refused.
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

// ---- what a file may say that is refused, as the model has no such part

static bool is_string(const cJSON *item, const char *text) {
    return cJSON_IsString(item) && strcmp(item->valuestring, text) == 0;
}

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

// Kinds of attention by layer: here each layer's sees the whole document.
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
    // an object without a type may have theta alone
    const cJSON *only = rope->object->child;
    bool scaled = only != NULL && (only->next != NULL || strcmp(only->string, "rope_theta") != 0);
    return type == NULL && scaled ? refuse(rope, "rope_type", "\"default\" or \"llama3\"") : 0;
}

// A field that has no meaning for the object's type is refused, not passed over: another reader may act on it.
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

// Reads one of the two objects into config's RoPE fields.
static int read_rope_object(LlamaConfig *config, const Fields *fields, const char *name) {
    Fields rope = *fields;
    rope.object = present(fields, name);
    rope.prefix = strcmp(name, "rope_scaling") == 0 ? "rope_scaling." : "rope_parameters.";
    if (!cJSON_IsObject(rope.object)) return refuse(fields, name, "an object");
    int code = json_check_unique(rope.object, rope.path, rope.prefix, rope.err);
    if (code == 0) code = read_rope_type(config, &rope);
    if (code == 0) code = check_rope_keys(&rope, config->rope_type);
    if (code == 0 && config->rope_type == ROPE_LLAMA3) code = read_llama3_scaling(config, &rope);
    if (code == 0) code = check_unsupported(&rope); // transformers 5 has partial_rotary_factor here
    if (code == 0) code = read_theta(&rope, &config->rope_theta);
    return code;
}

static bool same_rope(const LlamaConfig *a, const LlamaConfig *b) {
    return a->rope_type == b->rope_type && a->rope_factor == b->rope_factor &&
           a->rope_low_freq_factor == b->rope_low_freq_factor && a->rope_high_freq_factor == b->rope_high_freq_factor &&
           a->rope_original_max_position == b->rope_original_max_position;
}

// An empty object counts as absent.
static bool has_object(const Fields *fields, const char *name) {
    const cJSON *item = present(fields, name);
    return item != NULL && !(cJSON_IsObject(item) && item->child == NULL);
}

// Some models have the length before scaling beside the object, where it would take precedence.
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

// ---- the other fields

static int read_sizes(LlamaConfig *config, const Fields *fields) {
    for (int i = 0; i < INT_FIELDS; i++) {
        const IntField *field = &llama_int_fields[i];
        if (field->absent == DERIVED && present(fields, field->name) == NULL) continue;
        *llama_int_field(config, field) = field->absent;
        if (field->absent >= 0 && json_get(fields->object, field->name) == NULL) continue;
        int code = read_int(fields, field->name, llama_int_field(config, field));
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

// Absent: the token of Llama 1 and 2, as in transformers, if the vocabulary has it; null: none.
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

// Old files have -1, and some have an id beyond the vocabulary: either means none.
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

// A folder without a configuration may hold something else than a model.
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
