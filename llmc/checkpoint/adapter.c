#include "checkpoint/adapter.h"

#include <cjson/cJSON.h>

#include "base/json.h"

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
    char *text = json_print(root, true);
    cJSON_Delete(root);
    return text;
}
