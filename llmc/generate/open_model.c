#include "generate/open_model.h"

#include <unistd.h>

#include "base/json.h"
#include "base/path.h"
#include "device/threads.h"

static int add_end_token(LlamaConfig *config, const cJSON *id, const char *path, Error *err) {
    uint64_t value;
    if (!json_is_count(id, (uint64_t)config->vocab_size - 1, &value))
        return fail_input(err, "%s: eos_token_id: expected ids below the vocabulary's %d", path, config->vocab_size);
    return llama_config_is_end(config, (int)value) ? 0 : llama_config_add_end(config, (int)value, path, err);
}

// Takes "eos_token_id" of generation_config.json, an id or a list of them, as end tokens too.
static int add_end_tokens(LlamaConfig *config, const char *path, Error *err) {
    enum { MAX_BYTES = 1 << 20 };
    cJSON *root = NULL;
    int code = json_read_object(&root, path, MAX_BYTES, err);
    if (code) return code;
    const cJSON *item = json_get(root, "eos_token_id"), *id;
    if (cJSON_IsArray(item)) {
        cJSON_ArrayForEach(id, item) if (!code) code = add_end_token(config, id, path, err);
    } else if (item && !cJSON_IsNull(item))
        code = add_end_token(config, item, path, err);
    cJSON_Delete(root);
    return code;
}

static int read_config(LlamaConfig *config, const char *folder, Error *err) {
    if (access(folder, F_OK) != 0) return fail_input(err, "%s: no such folder", folder);
    char path[PATH_MAX];
    int code = path_join(path, folder, "config.json", err);
    if (!code) code = llama_config_read(config, path, err);
    if (!code) code = llama_config_demand_language_model(config, path, err);
    if (!code) code = path_join(path, folder, "generation_config.json", err);
    return code || access(path, F_OK) != 0 ? code : add_end_tokens(config, path, err);
}

int open_model(Llama3 **model, LlamaConfig *config, const char *folder, int *context, int threads, Error *err) {
    int code = threads_set(threads, 1, err);
    if (!code) code = read_config(config, folder, err);
    if (code) return code;
    if (*context > config->max_position_embeddings) *context = config->max_position_embeddings;
    const RunShape shape = {.B = 1, .T = *context, .micro_batches = 1};
    return llama3_create(model, config, &shape, err);
}
