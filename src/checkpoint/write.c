// The writing half of checkpoint.h.
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/checksums.h"
#include "checkpoint/convert.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/store.h"

enum {
    MAX_GENERATION_BYTES = 1 << 20,
    PIECE = 1 << 20,      // elements that are converted or fetched at a time
    SPARE_BYTES = 4 << 20 // for headers, texts and the file system's own needs
};

typedef struct {
    const CheckpointContent *content;
    const char *folder; // in the making
    Checksums sums;
    uint64_t bytes; // written so far
} Writing;

static const char *const tokenizer_files[] = {"tokenizer.json",    "tokenizer_config.json", "special_tokens_map.json",
                                              "added_tokens.json", "chat_template.jinja",   "tokenizer.model"};
enum { TOKENIZER_FILES = sizeof tokenizer_files / sizeof *tokenizer_files };

static size_t elements(const ParameterTensor *t) { return (size_t)t->rows * (size_t)t->cols; }

// ---- small files

static int note(Writing *w, const char *name, const Digest *digest, uint64_t bytes, Error *err) {
    w->bytes += bytes;
    return checksums_add(&w->sums, name, digest, err);
}

static int write_bytes(Writing *w, const char *name, const char *data, size_t bytes, Error *err) {
    char path[PATH_MAX];
    NewFile file;
    int code = store_path(path, w->folder, name, err);
    if (!code) code = file_begin_plain(&file, path, err);
    if (code) return code;
    code = file_append(&file, data, bytes, err);
    if (code) {
        file_discard(&file);
        return code;
    }
    Digest digest = file_digest(&file);
    code = file_commit(&file, err);
    return code ? code : note(w, name, &digest, bytes, err);
}

static int write_config(Writing *w, Error *err) {
    char *text = NULL;
    int code = llama_config_print(w->content->config, w->folder, &text, err);
    if (!code) code = write_bytes(w, "config.json", text, strlen(text), err);
    cJSON_free(text);
    return code;
}

// The model's own generation_config.json, or an empty one.
static int read_generation_config(const Writing *w, cJSON **json, Error *err) {
    char path[PATH_MAX];
    int code = store_path(path, w->content->tokenizer_folder, "generation_config.json", err);
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
    code = write_bytes(w, "generation_config.json", text, strlen(text), err);
    cJSON_free(text);
    return code;
}

static int copy_tokenizer_file(Writing *w, const char *name, Error *err) {
    char from[PATH_MAX], *data = NULL;
    size_t bytes = 0;
    int code = store_path(from, w->content->tokenizer_folder, name, err);
    if (code || access(from, F_OK) != 0) return code;
    code = file_read_whole(from, SIZE_MAX / 2, &data, &bytes, err);
    if (!code) code = write_bytes(w, name, data, bytes, err);
    free(data);
    return code;
}

// ---- tensors

// What a file holds of all parameters: training arrays (fp32), or the weights themselves (floatX).
enum { WEIGHTS = TRAINING_ARRAYS, KINDS };
static const char *const prefixes[KINDS] = {"master.", "moment1.", "moment2.", ""};

typedef struct {
    char (*names)[sizeof((ParameterTensor *)NULL)->name + 16];
    SafetensorsTensor *tensors;
    int count;
} Declared;

static void declare_one(Declared *d, const char *prefix, const ParameterTensor *t, SafetensorsType type) {
    snprintf(d->names[d->count], sizeof *d->names, "%s%s", prefix, t->name);
    SafetensorsTensor *tensor = &d->tensors[d->count];
    *tensor = (SafetensorsTensor){
        .name = d->names[d->count], .dims = t->dims, .shape = {t->rows, t->cols, 1, 1}, .type = type};
    if (t->dims == 1) tensor->shape[0] = t->cols, tensor->shape[1] = 1;
    d->count++;
}

// The tensors of a file that holds the kinds [first, last]. false: no memory.
static bool declare(Declared *d, const ParameterTable *table, int first, int last) {
    size_t room = (size_t)table->count * (size_t)(last - first + 1);
    *d = (Declared){.names = calloc(room, sizeof *d->names), .tensors = calloc(room, sizeof *d->tensors)};
    if (!d->names || !d->tensors) return false;
    for (int kind = first; kind <= last && kind < KINDS; kind++) {
        SafetensorsType type = kind == WEIGHTS && sizeof(floatX) == 2 ? SAFETENSORS_BF16 : SAFETENSORS_F32;
        for (int i = 0; i < table->count; i++) declare_one(d, prefixes[kind], &table->tensors[i], type);
    }
    return true;
}

typedef struct {
    float fetched[PIECE];  // from the model
    floatX rounded[PIECE]; // weights
} Pieces;

static const float *find_piece(const Writing *w, TrainingArray array, int index, size_t first, size_t count,
                               Pieces *pieces) {
    const CheckpointContent *c = w->content;
    if (c->snapshot) return snapshot_array(c->snapshot, array) + c->table->tensors[index].offset + first;
    llama3_get_training_piece(c->model, array, index, first, count, pieces->fetched);
    return pieces->fetched;
}

static int stream_tensor(const Writing *w, SafetensorsWriter *out, int kind, int index, Pieces *pieces, Error *err) {
    const bool weights = kind == WEIGHTS; // the master weights, rounded
    const size_t all = elements(&w->content->table->tensors[index]);
    for (size_t first = 0; first < all; first += PIECE) {
        size_t count = all - first < PIECE ? all - first : PIECE;
        const float *values =
            find_piece(w, weights ? TRAINING_MASTER : (TrainingArray)kind, index, first, count, pieces);
        if (weights) convert_to_x(pieces->rounded, values, SAFETENSORS_F32, count);
        int code = weights ? safetensors_write(out, pieces->rounded, count * sizeof(floatX), err)
                           : safetensors_write(out, values, count * sizeof(float), err);
        if (code) return code;
    }
    return 0;
}

static int stream(const Writing *w, SafetensorsWriter *out, int first, int last, const char *path, Error *err) {
    Pieces *pieces = malloc(sizeof *pieces);
    if (!pieces) return fail_fault(err, "%s: no memory to write it", path);
    int code = 0;
    for (int kind = first; kind <= last; kind++)
        for (int i = 0; !code && i < w->content->table->count; i++) code = stream_tensor(w, out, kind, i, pieces, err);
    free(pieces);
    return code;
}

static int finish(Writing *w, SafetensorsWriter *out, const char *name, Error *err) {
    Digest digest = safetensors_digest(out);
    uint64_t bytes = safetensors_written(out);
    int code = safetensors_finish(out, err);
    return code ? code : note(w, name, &digest, bytes, err);
}

static int begin_arrays(const Writing *w, SafetensorsWriter **out, const char *path, int first, int last, Error *err) {
    Declared declared;
    int code = declare(&declared, w->content->table, first, last)
                   ? safetensors_create_plain(out, path, declared.tensors, declared.count, err)
                   : fail_fault(err, "%s: no memory for its header", path);
    free(declared.names);
    free(declared.tensors);
    return code;
}

// The kinds [first, last] as one safetensors file.
static int write_arrays(Writing *w, const char *name, int first, int last, Error *err) {
    char path[PATH_MAX];
    SafetensorsWriter *out = NULL;
    int code = store_path(path, w->folder, name, err);
    if (!code) code = begin_arrays(w, &out, path, first, last, err);
    if (code) return code;
    code = stream(w, out, first, last, path, err);
    if (!code) return finish(w, out, name, err);
    safetensors_discard(out);
    return code;
}

// ---- the folder

static int make_folder(const char *path, Error *err) {
    return mkdir(path, 0777) == 0 ? 0 : file_fail_open(err, path, errno);
}

static int make_store(const char *store, Error *err) {
    if (mkdir(store, 0777) == 0) return folder_sync_parent(store, err);
    return errno == EEXIST ? 0 : file_fail_open(err, store, errno);
}

static int write_files(Writing *w, Error *err) {
    char trainer[PATH_MAX];
    int code = store_path(trainer, w->folder, "trainer", err);
    if (!code) code = make_folder(w->folder, err);
    if (!code) code = make_folder(trainer, err);
    if (!code) code = write_config(w, err);
    if (!code) code = write_generation_config(w, err);
    for (int i = 0; !code && i < TOKENIZER_FILES; i++) code = copy_tokenizer_file(w, tokenizer_files[i], err);
    if (!code) code = write_bytes(w, "trainer/state.json", w->content->state, strlen(w->content->state), err);
    if (!code) code = write_arrays(w, "model.safetensors", WEIGHTS, WEIGHTS, err);
    if (!code) code = write_arrays(w, "trainer/optimizer.safetensors", TRAINING_MASTER, TRAINING_MOMENT2, err);
    if (!code) code = checksums_write(&w->sums, w->folder, err);
    if (!code) code = folder_sync(trainer, err);
    return code ? code : folder_sync(w->folder, err);
}

static uint64_t bytes_needed(const CheckpointContent *c) {
    uint64_t needed = (uint64_t)c->table->num_parameters * (sizeof(floatX) + TRAINING_ARRAYS * sizeof(float));
    for (int i = 0; i < TOKENIZER_FILES; i++) {
        char path[PATH_MAX];
        struct stat status;
        if (store_path(path, c->tokenizer_folder, tokenizer_files[i], NULL) == 0 && stat(path, &status) == 0)
            needed += (uint64_t)status.st_size;
    }
    return needed + SPARE_BYTES;
}

static int check_space(const CheckpointContent *c, Error *err) {
    struct statvfs disk;
    if (statvfs(c->store, &disk) != 0) return fail_fault(err, "%s: statvfs: %s", c->store, strerror(errno));
    uint64_t needed = bytes_needed(c), free_bytes = (uint64_t)disk.f_bavail * disk.f_frsize;
    if (free_bytes >= needed) return 0;
    return fail_fault(err, "%s: no space for a checkpoint: %.1f MiB needed, %.1f MiB free", c->store,
                      (double)needed / 1048576.0, (double)free_bytes / 1048576.0);
}

static int write_named(const CheckpointContent *c, const char *name, uint64_t *bytes, Error *err) {
    char folder[PATH_MAX], made[STORE_NAME_SIZE + 8];
    snprintf(made, sizeof made, "%s.tmp", name);
    int code = store_path(folder, c->store, made, err);
    if (code) return code;
    Writing w = {.content = c, .folder = folder};
    code = write_files(&w, err);
    const uint64_t checksums_bytes = w.sums.length;
    checksums_free(&w.sums);
    if (!code) code = store_take_name(c->store, folder, name, err);
    if (code) store_clean(c->store);
    if (bytes) *bytes = w.bytes + checksums_bytes;
    return code;
}

int checkpoint_write(const CheckpointContent *content, uint64_t *bytes, Error *err) {
    char name[STORE_NAME_SIZE];
    store_name(name, content->step);
    int code = make_store(content->store, err);
    if (code) return code;
    store_clean(content->store);
    code = check_space(content, err);
    if (!code) code = write_named(content, name, bytes, err);
    if (!code) code = store_set_latest(content->store, name, err);
    if (!code) store_prune(content->store, name, content->keep_last, content->keep_every);
    return code;
}
