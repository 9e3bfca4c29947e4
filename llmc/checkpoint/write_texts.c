#include "checkpoint/write_texts.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/path.h"
#include "checkpoint/adapter.h"
#include "checkpoint/parts.h"
#include "loader/tokenizer_files.h"

enum { MAX_GENERATION_BYTES = 1 << 20 };

static int write_config(Writing *w, Error *err) {
    char *text = NULL;
    int code = llama_config_print(w->content->config, w->folder, &text, err);
    if (!code) code = writing_put(w, "config.json", text, strlen(text), err);
    cJSON_free(text);
    return code;
}

// PEFT's description of the adapters.
static int write_adapter_config(Writing *w, Error *err) {
    char *text = adapter_config_text(w->content->table, w->content->config, w->content->base);
    if (!text) return fail_fault(err, "%s: no memory for adapter_config.json", w->folder);
    int code = writing_put(w, "adapter_config.json", text, strlen(text), err);
    cJSON_free(text);
    return code;
}

// The model's own generation_config.json, or an empty one.
static int read_generation_config(const Writing *w, cJSON **json, Error *err) {
    char path[PATH_MAX];
    int code = path_join(path, w->content->tokenizer_folder, "generation_config.json", err);
    if (code) return code;
    if (access(path, F_OK) == 0) return json_read_object(json, path, MAX_GENERATION_BYTES, err);
    *json = cJSON_CreateObject();
    cJSON_AddBoolToObject(*json, "_from_model_config", true);
    return 0;
}

// What it says of sampling stays; it ends a text at its own tokens and at the configuration's.
static int settle_end_tokens(cJSON *json, const LlamaConfig *config, Error *err) {
    LlamaConfig ends = *config;
    const cJSON *own = json_get(json, "eos_token_id"), *first = cJSON_IsArray(own) ? own->child : own;
    for (const cJSON *id = first; id; id = cJSON_IsArray(own) ? id->next : NULL) {
        uint64_t value;
        if (!json_is_count(id, (uint64_t)config->vocab_size - 1, &value)) continue;
        int code = llama_config_add_end(&ends, (int)value, "generation_config.json", err);
        if (code) return code;
    }
    cJSON_DeleteItemFromObjectCaseSensitive(json, "bos_token_id");
    cJSON_DeleteItemFromObjectCaseSensitive(json, "eos_token_id");
    llama_config_add_tokens(json, &ends);
    return 0;
}

static int write_generation_config(Writing *w, Error *err) {
    cJSON *root = NULL;
    int code = read_generation_config(w, &root, err);
    if (!code) code = settle_end_tokens(root, w->content->config, err);
    char *text = code ? NULL : cJSON_Print(root);
    cJSON_Delete(root);
    if (code) return code;
    if (!text) return fail_fault(err, "%s: no memory for generation_config.json", w->folder);
    code = writing_put(w, "generation_config.json", text, strlen(text), err);
    cJSON_free(text);
    return code;
}

static int copy_tokenizer_file(Writing *w, const char *name, Error *err) {
    char from[PATH_MAX], *data = NULL;
    size_t bytes = 0;
    int code = path_join(from, w->content->tokenizer_folder, name, err);
    if (code || access(from, F_OK) != 0) return code;
    code = file_read_whole(from, SIZE_MAX / 2, &data, &bytes, err);
    if (!code) code = writing_put(w, name, data, bytes, err);
    free(data);
    return code;
}

// model.safetensors.index.json: in which of several files a tensor lies.
static int write_index(Writing *w, Error *err) {
    const CheckpointContent *c = w->content;
    cJSON *root = cJSON_CreateObject(), *metadata = cJSON_AddObjectToObject(root, "metadata");
    cJSON_AddNumberToObject(metadata, "total_size", (double)(c->table->num_parameters * sizeof(floatX)));
    cJSON *map = cJSON_AddObjectToObject(root, "weight_map");
    for (int i = 0; i < c->table->count; i++) {
        char file[PART_NAME_SIZE];
        part_model_file(file, c->table, part_of_tensor(c->table, i, c->parts), c->parts);
        cJSON_AddStringToObject(map, c->table->tensors[i].name, file);
    }
    char *text = cJSON_Print(root);
    cJSON_Delete(root);
    if (!text) return fail_fault(err, "%s: no memory for model.safetensors.index.json", w->folder);
    int code = writing_put(w, "model.safetensors.index.json", text, strlen(text), err);
    cJSON_free(text);
    return code;
}

static bool has_one_model_file(const CheckpointContent *c) {
    char name[PART_NAME_SIZE];
    part_model_file(name, c->table, part_of_tensor(c->table, 0, c->parts), c->parts);
    return c->table->lora_rank || strcmp(name, "model.safetensors") == 0;
}

int write_model_texts(Writing *w, Error *err) {
    int code = w->content->table->lora_rank ? write_adapter_config(w, err) : write_config(w, err);
    if (!code) code = write_generation_config(w, err);
    for (int i = 0; !code && i < TOKENIZER_FILES; i++) code = copy_tokenizer_file(w, tokenizer_files[i], err);
    return code;
}

int write_texts(Writing *w, Error *err) {
    const CheckpointContent *c = w->content;
    int code = write_model_texts(w, err);
    if (!code) code = writing_put(w, "trainer/state.json", c->state, strlen(c->state), err);
    return code || has_one_model_file(c) ? code : write_index(w, err);
}
