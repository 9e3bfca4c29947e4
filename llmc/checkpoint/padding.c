#include "checkpoint/padding.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/new_file.h"
#include "base/path.h"

enum { MAX_FILE_BYTES = 1 << 28 };

static const char *const tokenizer_config = "tokenizer_config.json", *const special_map = "special_tokens_map.json",
                         *const generation_config = "generation_config.json";

// What a folder's files say; NULL: no such file.
typedef struct {
    const LlamaConfig *model;
    cJSON *tokenizer, *config, *map, *generation;
    char *added; // text in which tokens stand that the tokenizer or its template adds
    TokenOccurs occurs;
    const void *context;
} Padding;

// ---- the files

static int read_json(cJSON **json, const char *folder, const char *name, Error *err) {
    char path[PATH_MAX];
    int code = path_join(path, folder, name, err);
    return code || access(path, F_OK) != 0 ? code : json_read_object(json, path, MAX_FILE_BYTES, err);
}

static int write_json(const cJSON *json, const char *folder, const char *name, Error *err) {
    char path[PATH_MAX];
    int code = path_join(path, folder, name, err);
    char *text = code ? NULL : cJSON_Print(json);
    if (!code) code = text ? file_write_whole(path, text, strlen(text), err) : fail_fault(err, "%s: no memory", path);
    cJSON_free(text);
    return code;
}

// *text = the template in a file of its own, or "".
static int read_template(char **text, const char *folder, Error *err) {
    char path[PATH_MAX];
    size_t bytes;
    int code = path_join(path, folder, "chat_template.jinja", err);
    if (code) return code;
    if (access(path, F_OK) == 0) return file_read_whole(path, MAX_FILE_BYTES, text, &bytes, err);
    *text = calloc(1, 1);
    return *text ? 0 : fail_fault(err, "%s: no memory", path);
}

static int read_added(Padding *p, const char *folder, Error *err) {
    char *own = NULL;
    int code = read_template(&own, folder, err);
    if (code) return code;
    const cJSON *processor = json_get(p->tokenizer, "post_processor"), *template = json_get(p->config, "chat_template");
    char *around = processor ? cJSON_PrintUnformatted(processor) : NULL;
    char *inside = template ? cJSON_PrintUnformatted(template) : NULL;
    const size_t bytes = strlen(own) + strlen(around ? around : "") + strlen(inside ? inside : "") + 1;
    p->added = malloc(bytes);
    if (p->added) snprintf(p->added, bytes, "%s%s%s", own, around ? around : "", inside ? inside : "");
    cJSON_free(around);
    cJSON_free(inside);
    free(own);
    return p->added ? 0 : fail_fault(err, "%s: no memory for its template", folder);
}

static int read_files(Padding *p, const char *folder, Error *err) {
    int code = read_json(&p->tokenizer, folder, "tokenizer.json", err);
    if (!code) code = read_json(&p->config, folder, tokenizer_config, err);
    if (!code) code = read_json(&p->map, folder, special_map, err);
    if (!code) code = read_json(&p->generation, folder, generation_config, err);
    return code ? code : read_added(p, folder, err);
}

static void close_files(Padding *p) {
    cJSON_Delete(p->tokenizer);
    cJSON_Delete(p->config);
    cJSON_Delete(p->map);
    cJSON_Delete(p->generation);
    free(p->added);
}

// ---- choosing

// A text, or an object with one: "content".
static const char *name_of(const cJSON *token) {
    return cJSON_GetStringValue(cJSON_IsObject(token) ? json_get(token, "content") : token);
}

static bool is_named(const cJSON *fields, const char *role, const char *name) {
    const char *named = name_of(json_get(fields, role));
    return named && strcmp(named, name) == 0;
}

static bool is_generation_end(const Padding *p, int id) {
    const cJSON *ends = json_get(p->generation, "eos_token_id"), *one = NULL;
    if (cJSON_IsNumber(ends)) return ends->valuedouble == id;
    cJSON_ArrayForEach(one, ends) if (cJSON_IsNumber(one) && one->valuedouble == id) return true;
    return false;
}

static bool bounds_texts(const Padding *p, int id, const char *name) {
    static const char *const roles[] = {"bos_token", "eos_token", "cls_token", "sep_token"};
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (is_named(p->config, roles[i], name) || is_named(p->map, roles[i], name)) return true;
    return id == p->model->bos_token_id || llama_config_is_end(p->model, id) || is_generation_end(p, id);
}

static bool contains(const char *name, const char *part) {
    const size_t length = strlen(part);
    for (; *name; name++) {
        size_t same = 0;
        while (same < length && tolower((unsigned char)name[same]) == part[same]) same++;
        if (same == length) return true;
    }
    return false;
}

// Llama 3's <|eot_id|> and <|eom_id|>, ChatML's <|im_end|> and others end turns, whether or not a template is there to show it.
static bool says_end(const char *name) {
    static const char *const parts[] = {"end", "eot", "eom", "eos", "eod", "</s>"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (contains(name, parts[i])) return true;
    return false;
}

// A token that text may spell is none to pad with: only special ones are set apart.
static bool can_pad(const Padding *p, const cJSON *token) {
    uint64_t id;
    const char *name = name_of(token);
    if (!name || !*name || !cJSON_IsTrue(json_get(token, "special"))) return false;
    if (!json_is_count(json_get(token, "id"), (uint64_t)p->model->vocab_size - 1, &id)) return false;
    if (says_end(name) || bounds_texts(p, (int)id, name) || strstr(p->added, name)) return false;
    return !p->occurs || !p->occurs(p->context, (int)id);
}

// In this order.
enum { MODELS_OWN, TOKENIZERS_OWN, NAMED_PAD, NAMED_UNUSED, UNKNOWN, ANY, REASONS };

static bool speaks_for(const Padding *p, int reason, const cJSON *token) {
    const char *name = name_of(token);
    switch (reason) {
    case MODELS_OWN:
        return json_get(token, "id")->valuedouble == p->model->pad_token_id;
    case TOKENIZERS_OWN:
        return is_named(p->config, "pad_token", name) || is_named(p->map, "pad_token", name);
    case NAMED_PAD:
        return contains(name, "pad");
    case NAMED_UNUSED:
        return contains(name, "reserved") || contains(name, "unused");
    case UNKNOWN:
        return is_named(json_get(p->tokenizer, "model"), "unk_token", name);
    default:
        return true;
    }
}

// NULL: none
static const cJSON *choose(const Padding *p) {
    const cJSON *token = NULL, *tokens = json_get(p->tokenizer, "added_tokens");
    for (int reason = 0; reason < REASONS; reason++)
        cJSON_ArrayForEach(token, tokens) if (can_pad(p, token) && speaks_for(p, reason, token)) return token;
    return NULL;
}

// ---- naming it

// The member becomes that value (NULL: goes), which is taken. Was it another?
static bool put(cJSON *fields, const char *name, cJSON *value) {
    const cJSON *found = json_get(fields, name);
    const bool same = value ? cJSON_Compare(found, value, true) : !found || cJSON_IsNull(found);
    if (same) {
        cJSON_Delete(value);
        return false;
    }
    if (!value)
        cJSON_DeleteItemFromObjectCaseSensitive(fields, name);
    else if (found)
        cJSON_ReplaceItemInObjectCaseSensitive(fields, name, value);
    else
        cJSON_AddItemToObject(fields, name, value);
    return true;
}

static int name_token(cJSON *fields, const char *folder, const char *file, const char *name, Error *err) {
    if (!fields || (name && is_named(fields, "pad_token", name))) return 0;
    const bool changed = put(fields, "pad_token", name ? cJSON_CreateString(name) : NULL);
    return changed ? write_json(fields, folder, file, err) : 0;
}

static int name_id(cJSON *fields, const char *folder, const char *file, int id, Error *err) {
    if (!fields || !put(fields, "pad_token_id", id >= 0 ? cJSON_CreateNumber(id) : NULL)) return 0;
    return write_json(fields, folder, file, err);
}

static int settle(LlamaConfig *config, Padding *p, const char *folder, Error *err) {
    const cJSON *token = choose(p);
    const char *name = token ? name_of(token) : NULL;
    config->pad_token_id = token ? json_get(token, "id")->valueint : -1;
    if (name && !p->config) p->config = cJSON_CreateObject();
    int code = name_token(p->config, folder, tokenizer_config, name, err);
    if (!code) code = name_token(p->map, folder, special_map, name, err);
    return code ? code : name_id(p->generation, folder, generation_config, config->pad_token_id, err);
}

int padding_settle(LlamaConfig *config, const char *folder, TokenOccurs occurs, const void *context, Error *err) {
    Padding p = {.model = config, .occurs = occurs, .context = context};
    int code = read_files(&p, folder, err);
    if (!code && p.tokenizer)
        code = settle(config, &p, folder, err);
    else if (!code && llama_config_is_end(config, config->pad_token_id))
        config->pad_token_id = -1;
    close_files(&p);
    return code;
}

int padding_settle_model(const char *folder, Error *err) {
    char path[PATH_MAX];
    cJSON *json = NULL;
    LlamaConfig config;
    int code = path_join(path, folder, "config.json", err);
    if (code || access(path, F_OK) != 0) return code;
    code = llama_config_read(&config, path, err);
    if (code || !config.num_labels) return code;
    code = padding_settle(&config, folder, NULL, NULL, err);
    if (!code) code = json_read_object(&json, path, MAX_FILE_BYTES, err);
    if (!code) code = name_id(json, folder, "config.json", config.pad_token_id, err);
    cJSON_Delete(json);
    return code;
}
