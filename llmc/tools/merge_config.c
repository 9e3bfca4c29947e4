// adapter_config.json, PEFT's.
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/path.h"
#include "base/regex.h"
#include "tools/merge_internal.h"

enum { MAX_RANK = 1 << 16, MAX_LAYER = 1 << 20 };

static int refuse(const AdapterFields *f, const char *name, const char *expected, Error *err) {
    const cJSON *item = json_get(f->json, name);
    char *found = item ? cJSON_PrintUnformatted(item) : NULL;
    int code =
        fail_input(err, "%.300s: %.60s is %.200s, expected %s", f->path, name, found ? found : "absent", expected);
    cJSON_free(found);
    return code;
}

// NULL: absent, or null
static const cJSON *present(const AdapterFields *f, const char *name) {
    const cJSON *item = json_get(f->json, name);
    return cJSON_IsNull(item) ? NULL : item;
}

static bool is_text(const cJSON *item, const char *text) {
    return cJSON_IsString(item) && strcmp(item->valuestring, text) == 0;
}

static bool is_one_of(const char *text, const char *const *list, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(text, list[i]) == 0) return true;
    return false;
}

// ---- what is not plain LoRA

// Of no influence on what is merged, or read below.
static const char *const understood[] = {
    "peft_type",
    "task_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "r",
    "target_modules",
    "exclude_modules",
    "lora_alpha",
    "lora_dropout",
    "bias",
    "use_rslora",
    "modules_to_save",
    "eva_config",
    "corda_config",
    "init_lora_weights",
    "loftq_config",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
    "megatron_core",
    "qalora_group_size",
    "runtime_config",
    "ensure_weight_tying",
    "lora_ga_config",
};

// null, false, [] and {}: how PEFT says that something is not used.
static bool says_nothing(const cJSON *item) {
    return cJSON_IsNull(item) || cJSON_IsFalse(item) || ((cJSON_IsArray(item) || cJSON_IsObject(item)) && !item->child);
}

static int check_others(const AdapterFields *f, Error *err) {
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, f->json) {
        if (is_one_of(item->string, understood, sizeof understood / sizeof *understood) || says_nothing(item)) continue;
        return refuse(f, item->string, "it absent: not supported", err);
    }
    return 0;
}

// Some ways to begin change the base (pissa, olora, corda, loftq, lora_ga): the adapter is one of that other base.
static int check_start(const AdapterFields *f, Error *err) {
    static const char *const harmless[] = {"gaussian", "eva", "orthogonal"};
    const cJSON *start = present(f, "init_lora_weights");
    if (!start || cJSON_IsBool(start)) return 0;
    if (cJSON_IsString(start) && is_one_of(start->valuestring, harmless, 3)) return 0;
    return refuse(f, "init_lora_weights", "a boolean, \"gaussian\", \"eva\" or \"orthogonal\", which keep the base",
                  err);
}

static int check_kind(const AdapterFields *f, Error *err) {
    if (!is_text(present(f, "peft_type"), "LORA")) return refuse(f, "peft_type", "\"LORA\"", err);
    if (present(f, "bias") && !is_text(present(f, "bias"), "none")) return refuse(f, "bias", "\"none\"", err);
    int code = check_others(f, err);
    return code ? code : check_start(f, err);
}

// ---- what is honoured

static int read_task(AdapterFields *f, Error *err) {
    const cJSON *task = present(f, "task_type");
    f->task = is_text(task, "CAUSAL_LM") ? TASK_LANGUAGE_MODEL
              : is_text(task, "SEQ_CLS") ? TASK_REWARD_MODEL
                                         : TASK_ANY;
    if (!task || f->task != TASK_ANY) return 0;
    return refuse(f, "task_type", "\"CAUSAL_LM\" or \"SEQ_CLS\"", err);
}

static int read_scale(AdapterFields *f, Error *err) {
    uint64_t rank = 0;
    const cJSON *alpha = present(f, "lora_alpha"), *root = present(f, "use_rslora");
    if (!json_is_count(present(f, "r"), MAX_RANK, &rank) || rank == 0)
        return refuse(f, "r", "an integer from 1 to 65536", err);
    if (!cJSON_IsNumber(alpha) || !isfinite(alpha->valuedouble)) return refuse(f, "lora_alpha", "a finite number", err);
    if (root && !cJSON_IsBool(root)) return refuse(f, "use_rslora", "true or false", err);
    f->rank = (int)rank;
    f->alpha = alpha->valuedouble;
    f->root = cJSON_IsTrue(root);
    f->tying = cJSON_IsTrue(present(f, "ensure_weight_tying"));
    return 0;
}

// Texts, or one of them; *names = NULL where there are none.
static int read_names(const cJSON **names, const AdapterFields *f, const char *field, bool or_one, const char *expected,
                      Error *err) {
    const cJSON *item = NULL, *list = present(f, field);
    *names = NULL;
    if (!list || is_text(list, "")) return 0;
    if (or_one && cJSON_IsString(list)) {
        *names = list;
        return 0;
    }
    if (!cJSON_IsArray(list)) return refuse(f, field, expected, err);
    cJSON_ArrayForEach(item, list) if (!cJSON_IsString(item)) return refuse(f, field, expected, err);
    if (list->child) *names = list;
    return 0;
}

// A pattern that Python and we read differently would select other modules.
static int check_pattern(const AdapterFields *f, const char *field, const char *pattern, Error *err) {
    bool matches;
    if (regex_fullmatch(&matches, pattern, "model")) return 0;
    return refuse(f, field, "a regular expression (of Python's, without \"{,\")", err);
}

static int check_patterns(const AdapterFields *f, const char *field, const cJSON *names, Error *err) {
    int code = 0;
    const cJSON *item = NULL;
    if (names && cJSON_IsString(names)) return check_pattern(f, field, names->valuestring, err);
    if (names != f->layers_pattern) return 0; // names, not patterns
    cJSON_ArrayForEach(item, names) if (!code) code = check_pattern(f, field, item->valuestring, err);
    return code;
}

// PEFT takes "all-linear" for the names of all matrices but the head's.
static int spell_all_linear(AdapterFields *f, Error *err) {
    static const char *const all[] = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
    const cJSON *targets = present(f, "target_modules");
    if (!cJSON_IsString(targets) || strcasecmp(targets->valuestring, "all-linear") != 0) return 0;
    cJSON *list = cJSON_CreateStringArray(all, sizeof all / sizeof *all);
    if (list && cJSON_ReplaceItemInObjectCaseSensitive(f->json, "target_modules", list)) return 0;
    cJSON_Delete(list);
    return fail_fault(err, "%s: no memory", f->path);
}

// A number, or a list of numbers.
static bool are_layers(const cJSON *layers) {
    const cJSON *item = NULL;
    uint64_t number;
    if (!cJSON_IsArray(layers)) return json_is_count(layers, MAX_LAYER, &number);
    cJSON_ArrayForEach(item, layers) if (!json_is_count(item, MAX_LAYER, &number)) return false;
    return true;
}

// An empty list is as none.
static int read_layers(AdapterFields *f, Error *err) {
    const cJSON *layers = present(f, "layers_to_transform");
    if (layers && !are_layers(layers))
        return refuse(f, "layers_to_transform", "a layer's number, or a list of them", err);
    if (layers && cJSON_IsArray(layers) && !layers->child) layers = NULL;
    if (layers && cJSON_IsString(f->targets))
        return refuse(f, "layers_to_transform", "it absent, as target_modules is a regular expression", err);
    f->layers = layers;
    return 0;
}

// Patterns of modules and their numbers, of which the first that fits counts.
static int read_numbers(const cJSON **numbers, AdapterFields *f, const char *field, Error *err) {
    const cJSON *item = NULL, *object = present(f, field);
    *numbers = object;
    if (!object) return 0;
    if (!cJSON_IsObject(object)) return refuse(f, field, "an object of modules and numbers", err);
    cJSON_ArrayForEach(item, object) {
        int code = check_pattern(f, field, item->string, err);
        if (code) return code;
        uint64_t rank = 0;
        if (numbers == &f->ranks && (!json_is_count(item, MAX_RANK, &rank) || rank == 0))
            return refuse(f, field, "ranks from 1 to 65536", err);
        if (!cJSON_IsNumber(item) || !isfinite(item->valuedouble)) return refuse(f, field, "finite numbers", err);
    }
    return json_check_unique(object, f->path, field, err);
}

static int read_modules(AdapterFields *f, Error *err) {
    const char *const expected = "a list of modules, a regular expression, or \"all-linear\"";
    const char *const names = "a list of modules";
    int code = spell_all_linear(f, err);
    if (!code) code = read_names(&f->targets, f, "target_modules", true, expected, err);
    if (!code && !f->targets) code = refuse(f, "target_modules", expected, err);
    if (!code) code = read_names(&f->excluded, f, "exclude_modules", true, "a list or a regular expression", err);
    if (!code) code = read_names(&f->saved, f, "modules_to_save", false, names, err);
    if (!code) code = read_names(&f->layers_pattern, f, "layers_pattern", true, names, err);
    if (!code) code = check_patterns(f, "target_modules", f->targets, err);
    if (!code) code = check_patterns(f, "exclude_modules", f->excluded, err);
    if (!code) code = check_patterns(f, "layers_pattern", f->layers_pattern, err);
    if (!code) code = read_layers(f, err);
    if (!code) code = read_numbers(&f->ranks, f, "rank_pattern", err);
    return code ? code : read_numbers(&f->alphas, f, "alpha_pattern", err);
}

static int read_base(AdapterFields *f, Error *err) {
    const cJSON *base = present(f, "base_model_name_or_path");
    if (base && !cJSON_IsString(base)) return refuse(f, "base_model_name_or_path", "a text", err);
    f->base = base ? base->valuestring : NULL;
    return 0;
}

// PEFT saves an adapter of another name than "default" in a folder of that name; trainers leave checkpoints beside each other.
static int find_within(const char *folder, Error *err) {
    char inner[PATH_MAX], first[NAME_MAX + 1] = "";
    DIR *open_folder = opendir(folder);
    if (!open_folder) return 0; // reading the configuration tells
    for (struct dirent *item = readdir(open_folder); item; item = readdir(open_folder)) {
        if (item->d_name[0] == '.' || path_join(inner, folder, item->d_name, NULL)) continue;
        if (!model_folder_has(inner, "adapter_config.json")) continue;
        if (!*first || strcmp(item->d_name, first) < 0) snprintf(first, sizeof first, "%s", item->d_name);
    }
    closedir(open_folder);
    if (*first)
        return fail_input(err, "%.300s: has no adapter_config.json, expected an adapter, as its folder %.255s is",
                          folder, first);
    if (!model_folder_has(folder, "config.json")) return 0;
    return fail_input(err, "%.300s: is a model, expected an adapter: a folder with adapter_config.json", folder);
}

int merge_read_config(AdapterFields *f, const char *folder, Error *err) {
    int code = model_folder_has(folder, "adapter_config.json") ? 0 : find_within(folder, err);
    if (!code) code = path_join(f->path, folder, "adapter_config.json", err);
    if (!code) code = json_read_object(&f->json, f->path, MODEL_CONFIG_BYTES, err);
    if (!code) code = json_check_unique(f->json, f->path, "", err);
    if (!code) code = check_kind(f, err);
    if (!code) code = read_task(f, err);
    if (!code) code = read_scale(f, err);
    if (!code) code = read_modules(f, err);
    return code ? code : read_base(f, err);
}
