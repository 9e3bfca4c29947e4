#include "run/import.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/new_file.h"
#include "base/path.h"
#include "base/sha256.h"
#include "loader/shard.h"
#include "loader/tokenizer_files.h"
#include "run/run_dir.h"

enum { MAX_JSON_BYTES = 1 << 28 };

static const char generation_config[] = "generation_config.json";

static int check_json(const char *path, Error *err) {
    cJSON *json = NULL;
    int code = access(path, F_OK) == 0 ? json_read_object(&json, path, MAX_JSON_BYTES, err) : 0;
    cJSON_Delete(json);
    return code;
}

static int check_generation_config(const char *folder, Error *err) {
    char path[PATH_MAX];
    int code = path_join(path, folder, generation_config, err);
    return code ? code : check_json(path, err);
}

int import_check_padding(const char *folder, const char *rows, Error *err) {
    static const int files[] = {TOKENIZER_CONFIG, TOKENIZER_SPECIAL_TOKENS};
    char path[PATH_MAX];
    int code = 0;
    for (size_t i = 0; i < sizeof files / sizeof *files && !code; i++) {
        const char *name = tokenizer_files[files[i]];
        code = path_join(path, folder, name, err);
        if (!code) code = check_json(path, err);
        if (!code) code = path_beside(path, rows, name, err);
        if (!code) code = check_json(path, err);
    }
    return code;
}

int import_same_tokenizer(bool *same, const char *folder, const uint8_t *sha256, Error *err) {
    char path[PATH_MAX];
    uint8_t found[SHA256_BYTES];
    int code = check_generation_config(folder, err);
    if (!code) code = path_join(path, folder, tokenizer_files[TOKENIZER_JSON], err);
    *same = true;
    if (code || access(path, F_OK) != 0) return code;
    code = sha256_file(path, found, err);
    *same = memcmp(found, sha256, sizeof found) == 0;
    return code;
}

int import_document_ids(LlamaConfig *config, bool keep, uint32_t bos, uint32_t eos, Error *err) {
    if (eos == SHARD_NO_ID) eos = bos; // one token does both
    if (bos != SHARD_NO_ID) config->bos_token_id = (int)bos;
    if (eos == SHARD_NO_ID) return 0;
    if (!keep) {
        config->eos_token_id = -1;
        config->num_more_eos_tokens = 0;
        memset(config->more_eos_token_ids, 0, sizeof config->more_eos_token_ids);
    }
    return llama_config_add_end(config, (int)eos, "config.json with the data's end token", err);
}

static int bring(const char *to, const char *from, const char *name, bool remove_old, Error *err) {
    char source[PATH_MAX], target[PATH_MAX];
    int code = path_join(target, to, name, err);
    if (!code && from) code = path_join(source, from, name, err);
    if (code) return code;
    if (from && access(source, F_OK) == 0) return file_copy(source, target, err);
    if (remove_old && unlink(target) != 0 && errno != ENOENT)
        return fail_fault(err, "%s: removing it: %s", target, strerror(errno));
    return 0;
}

int import_chat_files(const char *to, const char *rows, Error *err) {
    int code = 0;
    for (int i = TOKENIZER_SPECIAL_TOKENS; i < TOKENIZER_FILES && !code; i++)
        code = run_dir_copy_beside(to, rows, tokenizer_files[i], err);
    return code;
}

int import_files(const char *to, const char *from, Error *err) {
    int code = bring(to, from, generation_config, true, err);
    // tokenizer.json is the data's, and so is its configuration where the model has none
    for (int i = TOKENIZER_MODEL; i < TOKENIZER_FILES && !code; i++)
        code = bring(to, from, tokenizer_files[i], i != TOKENIZER_CONFIG, err);
    return code;
}
