#include "checkpoint/adapter.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "checkpoint/store.h"

enum { MAX_BYTES = 1 << 20 };

// ---- writing

static void add_targets(cJSON *root, const ParameterTable *table) {
    cJSON *targets = cJSON_AddArrayToObject(root, "target_modules");
    for (int p = 0; p < LAYER_PROJECTIONS; p++)
        if (table->lora_targets[p]) cJSON_AddItemToArray(targets, cJSON_CreateString(lora_target_name(p)));
}

char *adapter_config_text(const ParameterTable *table, const LlamaConfig *config, const char *base) {
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "peft_type", "LORA");
    cJSON_AddStringToObject(root, "task_type", config->num_labels ? "SEQ_CLS" : "CAUSAL_LM");
    if (base)
        cJSON_AddStringToObject(root, "base_model_name_or_path", base);
    else
        cJSON_AddNullToObject(root, "base_model_name_or_path");
    cJSON_AddNumberToObject(root, "r", table->lora_rank);
    cJSON_AddNumberToObject(root, "lora_alpha", table->lora_alpha);
    cJSON_AddNumberToObject(root, "lora_dropout", 0);
    add_targets(root, table);
    if (config->num_labels)
        cJSON_AddItemToArray(cJSON_AddArrayToObject(root, "modules_to_save"), cJSON_CreateString("score"));
    else
        cJSON_AddNullToObject(root, "modules_to_save");
    cJSON_AddStringToObject(root, "bias", "none");
    cJSON_AddFalseToObject(root, "fan_in_fan_out");
    cJSON_AddFalseToObject(root, "use_rslora");
    cJSON_AddFalseToObject(root, "use_dora");
    cJSON_AddTrueToObject(root, "init_lora_weights");
    cJSON_AddTrueToObject(root, "inference_mode");
    char *text = cJSON_Print(root);
    cJSON_Delete(root);
    return text;
}

// ---- reading

typedef struct {
    const cJSON *root;
    const char *path;
    Error *err;
} Fields;

static int refuse(const Fields *f, const char *name, const char *expected) {
    char *found = cJSON_PrintUnformatted(json_get(f->root, name));
    int code = fail_input(f->err, "%s: %s is %.80s, expected %s", f->path, name, found ? found : "missing", expected);
    cJSON_free(found);
    return code;
}

static bool is_text(const cJSON *item, const char *text) {
    return cJSON_IsString(item) && strcmp(item->valuestring, text) == 0;
}

// Absent, null, false, or nothing in it.
static bool says_nothing(const cJSON *item) {
    return !item || cJSON_IsNull(item) || cJSON_IsFalse(item) ||
           ((cJSON_IsObject(item) || cJSON_IsArray(item)) && !item->child);
}

static int check_plain(const Fields *f) {
    static const char *const without[] = {"fan_in_fan_out",  "use_dora",          "use_qalora",
                                          "rank_pattern",    "alpha_pattern",     "layer_replication",
                                          "megatron_config", "target_parameters", "trainable_token_indices",
                                          "arrow_config",    "lora_bias",         "alora_invocation_tokens"};
    if (!is_text(json_get(f->root, "peft_type"), "LORA")) return refuse(f, "peft_type", "\"LORA\"");
    const cJSON *bias = json_get(f->root, "bias");
    if (bias && !is_text(bias, "none")) return refuse(f, "bias", "\"none\"");
    for (size_t i = 0; i < sizeof without / sizeof *without; i++)
        if (!says_nothing(json_get(f->root, without[i]))) return refuse(f, without[i], "none: plain LoRA");
    return 0;
}

static int read_scale(const Fields *f, AdapterConfig *config) {
    const cJSON *rank = json_get(f->root, "r"), *alpha = json_get(f->root, "lora_alpha");
    uint64_t value = 0;
    if (!json_is_count(rank, 1 << 16, &value) || value == 0) return refuse(f, "r", "a whole number from 1");
    if (!cJSON_IsNumber(alpha) || !isfinite(alpha->valuedouble)) return refuse(f, "lora_alpha", "a number");
    config->rank = (int)value;
    const bool by_root = cJSON_IsTrue(json_get(f->root, "use_rslora"));
    config->scale = alpha->valuedouble / (by_root ? sqrt((double)value) : (double)value);
    return 0;
}

// PEFT names "classifier" too, which a Llama has not.
static int read_saved(const Fields *f, AdapterConfig *config) {
    const cJSON *modules = json_get(f->root, "modules_to_save"), *module = NULL;
    if (says_nothing(modules)) return 0;
    cJSON_ArrayForEach(module, modules) {
        if (!is_text(module, "score") && !is_text(module, "classifier"))
            return refuse(f, "modules_to_save", "none, or \"score\"");
        config->reward |= is_text(module, "score");
    }
    return 0;
}

static int read_fields(const Fields *f, AdapterConfig *config) {
    const cJSON *base = json_get(f->root, "base_model_name_or_path");
    int code = check_plain(f);
    if (!code) code = read_scale(f, config);
    if (!code) code = read_saved(f, config);
    if (code || !cJSON_IsString(base)) return code;
    if (snprintf(config->base, sizeof config->base, "%s", base->valuestring) < (int)sizeof config->base) return 0;
    return fail_input(f->err, "%s: base_model_name_or_path is longer than a path may be", f->path);
}

int adapter_config_read(AdapterConfig *config, const char *folder, Error *err) {
    char path[PATH_MAX];
    cJSON *root = NULL;
    *config = (AdapterConfig){.rank = 0};
    int code = store_path(path, folder, ADAPTER_CONFIG, err);
    if (!code) code = json_read_object(&root, path, MAX_BYTES, err);
    if (code) return code;
    const Fields fields = {root, path, err};
    code = json_check_unique(root, path, "", err);
    if (!code) code = read_fields(&fields, config);
    cJSON_Delete(root);
    return code;
}
