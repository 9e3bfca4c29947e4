// A configuration as the text of a config.json.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/new_file.h"
#include "model/config_fields.h"

#ifdef LLMC_PRECISION_fp32
static const char *const build_dtype = "float32";
#else
static const char *const build_dtype = "bfloat16";
#endif

// cJSON's own printing of numbers may lose the last bit, and prints 1.0 as 1, where transformers wants a float.
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

// Both spellings are written: each version of transformers reads its own, and passes over the other or agrees with it.
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
    for (int i = 0; i < INT_FIELDS; i++) {
        cJSON_AddNumberToObject(json, llama_int_fields[i].name,
                                *llama_int_field((LlamaConfig *)config, &llama_int_fields[i]));
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
