// What models that are averaged must have in common.
#include <limits.h>
#include <string.h>

#include "base/json.h"
#include "base/path.h"
#include "base/sha256.h"
#include "base/text.h"
#include "loader/tokenizer_files.h"
#include "model/config_compare.h"
#include "tools/average_internal.h"

// ---- configuration of a model

// What says nothing of how the model computes is the first's: how weights were drawn, how long texts may be, which tokens
// begin and end them.
static void take_harmless(LlamaConfig *config, const LlamaConfig *from) {
    config->initializer_range = from->initializer_range;
    config->max_position_embeddings = from->max_position_embeddings;
    config->bos_token_id = from->bos_token_id;
    config->eos_token_id = from->eos_token_id;
    config->num_more_eos_tokens = from->num_more_eos_tokens;
    memcpy(config->more_eos_token_ids, from->more_eos_token_ids, sizeof config->more_eos_token_ids);
}

static int read_config(LlamaConfig *config, char path[PATH_MAX], const char *folder, Error *err) {
    int code = path_join(path, folder, "config.json", err);
    return code ? code : llama_config_read(config, path, err);
}

static int compare_models(const Average *a, int i, Error *err) {
    char path[PATH_MAX], first_path[PATH_MAX];
    char field[LLAMA_FIELD_TEXT], found[LLAMA_FIELD_TEXT], expected[LLAMA_FIELD_TEXT];
    LlamaConfig config, first;
    int code = read_config(&config, path, a->inputs[i].folder, err);
    if (!code) code = read_config(&first, first_path, a->inputs[0].folder, err);
    if (code) return code;
    take_harmless(&config, &first);
    if (!llama_config_difference(&config, &first, field, found, expected)) return 0;
    return fail_input(err, "%.400s: %s is %s, expected %s as in %.400s", path, field, found, expected, first_path);
}

// ---- configuration of an adapter: PEFT's, of which all is compared but what matters for training alone

static const char *const harmless[] = {"inference_mode", "task_type",    "lora_dropout",  "init_lora_weights",
                                       "revision",       "auto_mapping", "peft_version",  "eva_config",
                                       "corda_config",   "loftq_config", "runtime_config"};

static bool is_harmless(const char *name) {
    for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++)
        if (strcmp(name, harmless[i]) == 0) return true;
    return false;
}

static bool is_absent(const cJSON *json) { return !json || cJSON_IsNull(json); }

// cJSON_Compare takes twice as long with each level of nesting: files of others are not given to it.
static bool is_equal(const cJSON *x, const cJSON *y) {
    char *one = cJSON_PrintUnformatted(x), *other = cJSON_PrintUnformatted(y);
    const bool equal = one && other && strcmp(one, other) == 0;
    cJSON_free(one);
    cJSON_free(other);
    return equal;
}

static bool holds(const cJSON *list, const cJSON *wanted) {
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, list) if (is_equal(item, wanted)) return true;
    return false;
}

// Lists are sets: PEFT writes target_modules in any order.
static bool is_same(const cJSON *x, const cJSON *y) {
    const cJSON *item = NULL;
    if (is_absent(x) || is_absent(y)) return is_absent(x) && is_absent(y);
    if (!cJSON_IsArray(x) || !cJSON_IsArray(y)) return is_equal(x, y);
    cJSON_ArrayForEach(item, x) if (!holds(y, item)) return false;
    return cJSON_GetArraySize(x) == cJSON_GetArraySize(y);
}

static int fail_field(const char *path, const char *name, const cJSON *found, const cJSON *expected,
                      const char *first_path, Error *err) {
    char *is = is_absent(found) ? NULL : cJSON_PrintUnformatted(found);
    char *was = is_absent(expected) ? NULL : cJSON_PrintUnformatted(expected);
    int code = fail_input(err, "%.300s: %.60s is %.120s, expected %.120s as in %.300s", path, name, is ? is : "absent",
                          was ? was : "absent", first_path);
    cJSON_free(is);
    cJSON_free(was);
    return code;
}

static int compare_members(const cJSON *found, const cJSON *expected, const char *path, const char *first_path,
                           Error *err) {
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, expected) {
        const cJSON *other = json_get(found, item->string);
        if (!is_harmless(item->string) && !is_same(other, item))
            return fail_field(path, item->string, other, item, first_path, err);
    }
    cJSON_ArrayForEach(item, found) {
        if (!is_harmless(item->string) && !json_get(expected, item->string) && !is_absent(item))
            return fail_field(path, item->string, item, NULL, first_path, err);
    }
    return 0;
}

static int read_members(cJSON **json, char path[PATH_MAX], const char *folder, Error *err) {
    int code = path_join(path, folder, "adapter_config.json", err);
    if (!code) code = json_read_object(json, path, MODEL_CONFIG_BYTES, err);
    return code ? code : json_check_unique(*json, path, "", err);
}

static int compare_adapters(const Average *a, int i, Error *err) {
    char path[PATH_MAX], first_path[PATH_MAX];
    cJSON *config = NULL, *first = NULL;
    int code = read_members(&config, path, a->inputs[i].folder, err);
    if (!code) code = read_members(&first, first_path, a->inputs[0].folder, err);
    if (!code) code = compare_members(config, first, path, first_path, err);
    cJSON_Delete(config);
    cJSON_Delete(first);
    return code;
}

int average_compare_configs(const Average *a, int i, Error *err) {
    return a->adapter ? compare_adapters(a, i, err) : compare_models(a, i, err);
}

int average_drop_leftovers(Average *a, int i, Error *err) {
    char path[PATH_MAX];
    LlamaConfig config;
    AverageInput *input = &a->inputs[i];
    if (a->adapter) return 0;
    int code = read_config(&config, path, input->folder, err);
    return code ? code : leftovers_drop(&input->dropped, input->reader, input->folder, &config, err);
}

// ---- tokenizer

static int compare_files(const char *folder, const char *first, const char *name, Error *err) {
    char path[PATH_MAX], first_path[PATH_MAX], found[2 * SHA256_BYTES + 1], expected[2 * SHA256_BYTES + 1];
    uint8_t hash[SHA256_BYTES], first_hash[SHA256_BYTES];
    int code = path_join(path, folder, name, err);
    if (!code) code = path_join(first_path, first, name, err);
    if (!code) code = sha256_file(path, hash, err);
    if (!code) code = sha256_file(first_path, first_hash, err);
    if (code || memcmp(hash, first_hash, sizeof hash) == 0) return code;
    text_hex(found, hash, SHA256_BYTES);
    text_hex(expected, first_hash, SHA256_BYTES);
    return fail_input(err, "%.300s: SHA-256 is %s, expected %s as of %.300s: another tokenizer", path, found, expected,
                      first_path);
}

// With the first input before it that has such a file: not all need to.
int average_compare_tokenizers(const Average *a, int i, Error *err) {
    for (int n = TOKENIZER_JSON; n <= TOKENIZER_MODEL; n++) {
        const char *name = tokenizer_files[n];
        int like = 0;
        while (like < i && !model_folder_has(a->inputs[like].folder, name)) like++;
        if (like == i || !model_folder_has(a->inputs[i].folder, name)) continue;
        int code = compare_files(a->inputs[i].folder, a->inputs[like].folder, name, err);
        if (code) return code;
    }
    return 0;
}

// ---- tensors

static int compare_shape(const AverageInput *input, const SafetensorsTensor *tensor, const AverageInput *first,
                         const SafetensorsTensor *like, Error *err) {
    char found[MODEL_SHAPE_TEXT], expected[MODEL_SHAPE_TEXT];
    model_print_shape(found, tensor);
    model_print_shape(expected, like);
    if (strcmp(found, expected) == 0) return 0;
    return fail_input(err, "%.300s: tensor \"%.120s\": shape is %s, expected %s as in %.300s",
                      safetensors_path(input->reader, tensor), tensor->name, found, expected, first->folder);
}

static int fail_missing(const AverageInput *input, const AverageInput *first, int t, Error *err) {
    const SafetensorsTensor *like = safetensors_at(first->reader, t);
    return fail_input(err, "%.300s: tensor \"%.120s\" is missing, expected it as in %.300s", input->folder, like->name,
                      safetensors_path(first->reader, like));
}

static int fail_extra(const AverageInput *input, const AverageInput *first, int t, Error *err) {
    const SafetensorsTensor *tensor = safetensors_at(input->reader, t);
    return fail_input(err, "%.300s: tensor \"%.120s\" found, expected none of that name, as in %.300s",
                      safetensors_path(input->reader, tensor), tensor->name, first->folder);
}

static int compare_tensor(const AverageInput *input, const AverageInput *first, int t, Error *err) {
    const SafetensorsTensor *tensor = safetensors_at(input->reader, t), *like = safetensors_at(first->reader, t);
    const int order = strcmp(tensor->name, like->name);
    if (order > 0) return fail_missing(input, first, t, err);
    return order < 0 ? fail_extra(input, first, t, err) : compare_shape(input, tensor, first, like, err);
}

// Readers list tensors by name: the first that only one of them has shows by the order.
int average_compare_tensors(const Average *a, int i, Error *err) {
    const AverageInput *input = &a->inputs[i], *first = &a->inputs[0];
    const int count = safetensors_count(input->reader), expected = safetensors_count(first->reader);
    for (int t = 0; t < count && t < expected; t++) {
        int code = compare_tensor(input, first, t, err);
        if (code) return code;
    }
    if (count < expected) return fail_missing(input, first, count, err);
    return count > expected ? fail_extra(input, first, expected, err) : 0;
}
