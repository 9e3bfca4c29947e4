#include "checkpoint/checkpoint.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "checkpoint/safetensors.h"

static int join(char out[PATH_MAX], const char *folder, const char *name, Error *err) {
    if (snprintf(out, PATH_MAX, "%s/%s", folder, name) < PATH_MAX) return 0;
    return fail_input(err, "%.200s...: expected a path of at most %d bytes", folder, PATH_MAX - 1);
}

static size_t elements(const ParameterTensor *tensor) {
    return (size_t)tensor->rows * (size_t)tensor->cols;
}

// Host memory for the largest tensor of the table.
static void *allocate_largest(const ParameterTable *table, size_t element_size) {
    size_t most = 0;
    for (int i = 0; i < table->count; i++)
        if (elements(&table->tensors[i]) > most) most = elements(&table->tensors[i]);
    return malloc(most * element_size);
}

// ---- writing

static SafetensorsTensor *declare(const ParameterTable *table) {
    SafetensorsTensor *declared = calloc((unsigned)table->count, sizeof *declared);
    for (int i = 0; declared && i < table->count; i++) {
        const ParameterTensor *t = &table->tensors[i];
        declared[i] = (SafetensorsTensor){.name = t->name,
                                          .dims = t->dims,
                                          .shape = {t->rows, t->cols, 1, 1},
                                          .type = sizeof(floatX) == 4 ? SAFETENSORS_F32 : SAFETENSORS_BF16};
        if (t->dims == 1) declared[i].shape[0] = t->cols, declared[i].shape[1] = 1;
    }
    return declared;
}

static int stream_weights(SafetensorsWriter *writer, Llama3 *m, floatX *values, Error *err) {
    const ParameterTable *table = llama3_parameters(m);
    for (int i = 0; i < table->count; i++) {
        llama3_get_parameter(m, i, values);
        int code = safetensors_write(writer, values, elements(&table->tensors[i]) * sizeof(floatX), err);
        if (code) return code;
    }
    return 0;
}

static int write_weights(const char *path, Llama3 *m, Error *err) {
    const ParameterTable *table = llama3_parameters(m);
    floatX *values = allocate_largest(table, sizeof *values);
    SafetensorsTensor *declared = declare(table);
    SafetensorsWriter *writer = NULL;
    int code = values && declared ? safetensors_create(&writer, path, declared, table->count, err)
                                  : fail_fault(err, "%s: out of memory", path);
    if (!code) {
        code = stream_weights(writer, m, values, err);
        if (code)
            safetensors_discard(writer);
        else
            code = safetensors_finish(writer, err);
    }
    free(declared);
    free(values);
    return code;
}

static int write_generation_config(const char *path, const LlamaConfig *config, Error *err) {
    cJSON *root = cJSON_CreateObject();
    cJSON_AddBoolToObject(root, "_from_model_config", true);
    llama_config_add_tokens(root, config);
    char *text = cJSON_Print(root);
    cJSON_Delete(root);
    if (!text) return fail_fault(err, "%s: out of memory", path);
    int code = file_write_whole(path, text, strlen(text), err);
    cJSON_free(text);
    return code;
}

static int copy_tokenizer(const char *from_folder, const char *to_folder, Error *err) {
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json"};
    char from[PATH_MAX], to[PATH_MAX];
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        int code = join(from, from_folder, names[i], err);
        if (!code) code = join(to, to_folder, names[i], err);
        if (!code && access(from, F_OK) != 0) continue;
        if (!code) code = file_copy(from, to, err);
        if (code) return code;
    }
    return 0;
}

static int write_files(const char *folder, const char *tokenizer_folder, Llama3 *m, Error *err) {
    char path[PATH_MAX];
    int code = join(path, folder, "model.safetensors", err);
    if (!code) code = write_weights(path, m, err);
    if (!code) code = join(path, folder, "config.json", err);
    if (!code) code = llama_config_write(llama3_config(m), path, err);
    if (!code) code = join(path, folder, "generation_config.json", err);
    if (!code) code = write_generation_config(path, llama3_config(m), err);
    return code ? code : copy_tokenizer(tokenizer_folder, folder, err);
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *where) {
    (void)status, (void)type, (void)where;
    return remove(path);
}

// A folder that does not exist is removed already.
static void remove_folder(const char *folder) {
    nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static void sync_parent(const char *path) {
    const char *slash = strrchr(path, '/');
    char parent[PATH_MAX];
    snprintf(parent, sizeof parent, "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
    int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    fsync(fd); // where folders cannot be synced there is nothing to be done about it
    close(fd);
}

// For file systems that cannot exchange two names: for a moment the old folder stands under folder ".old"
// alone.
static int replace_in_two_steps(const char *made, const char *folder, Error *err) {
    char old[PATH_MAX];
    if (snprintf(old, sizeof old, "%s.old", folder) >= PATH_MAX)
        return fail_input(err, "%s: path too long", folder);
    remove_folder(old);
    if (rename(folder, old) != 0)
        return fail_fault(err, "%s: rename to %s: %s", folder, old, strerror(errno));
    if (rename(made, folder) != 0) {
        int code = fail_fault(err, "%s: rename to %s: %s", made, folder, strerror(errno));
        rename(old, folder);
        return code;
    }
    sync_parent(folder);
    remove_folder(old);
    return 0;
}

// Gives `made` the name `folder`, and removes what had it before.
static int take_name(const char *made, const char *folder, Error *err) {
    if (rename(made, folder) == 0) { // there was nothing, or an empty folder
        sync_parent(folder);
        return 0;
    }
    if (renameat2(AT_FDCWD, made, AT_FDCWD, folder, RENAME_EXCHANGE) != 0)
        return replace_in_two_steps(made, folder, err);
    sync_parent(folder);
    remove_folder(made);
    return 0;
}

int checkpoint_write(const char *folder, const char *tokenizer_folder, Llama3 *m, Error *err) {
    char made[PATH_MAX];
    if (snprintf(made, sizeof made, "%s.tmp", folder) >= PATH_MAX)
        return fail_input(err, "%s: path too long", folder);
    remove_folder(made); // of a run that was cut short
    if (mkdir(made, 0777) != 0) return file_fail_open(err, made, errno);
    int code = write_files(made, tokenizer_folder, m, err);
    if (!code) code = take_name(made, folder, err);
    if (code) remove_folder(made);
    return code;
}

// ---- reading

static float widen_half(uint16_t bits) { // IEEE 754 binary16
    int exponent = bits >> 10 & 31, fraction = bits & 1023;
    float value = exponent == 0    ? ldexpf((float)fraction, -24)
                  : exponent == 31 ? (fraction ? NAN : INFINITY)
                                   : ldexpf((float)(fraction + 1024), exponent - 25);
    return bits >> 15 ? -value : value;
}

static float widen(const void *raw, size_t i, SafetensorsType type) {
    float value;
    if (type == SAFETENSORS_F32) {
        memcpy(&value, (const char *)raw + 4 * i, sizeof value);
        return value;
    }
    uint16_t bits;
    memcpy(&bits, (const char *)raw + 2 * i, sizeof bits);
    if (type == SAFETENSORS_F16) return widen_half(bits);
    uint32_t wide = (uint32_t)bits << 16;
    memcpy(&value, &wide, sizeof value);
    return value;
}

// A finite value to floatX, to the nearest, of two equally near ones the even.
static floatX narrow(float value) {
#ifdef LLMC_PRECISION_fp32
    return value;
#else
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (floatX)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
#endif
}

// A tied model's file may repeat the embedding as lm_head, and old files hold RoPE's frequencies, which the
// configuration gives.
static bool may_be_extra(const SafetensorsTensor *tensor, const LlamaConfig *config) {
    if (config->tie_word_embeddings && strcmp(tensor->name, "lm_head.weight") == 0) return true;
    return strstr(tensor->name, ".rotary_emb.inv_freq") != NULL;
}

static int check_names(const SafetensorsReader *reader, const char *folder, Llama3 *m, Error *err) {
    const ParameterTable *table = llama3_parameters(m);
    int missing = 0, extra = 0;
    const char *first_missing = NULL, *first_extra = NULL;
    for (int i = table->count - 1; i >= 0; i--) {
        if (safetensors_find(reader, table->tensors[i].name)) continue;
        missing++;
        first_missing = table->tensors[i].name;
    }
    for (int i = safetensors_count(reader) - 1; i >= 0; i--) {
        const SafetensorsTensor *tensor = safetensors_at(reader, i);
        if (parameter_table_find(table, tensor->name) || may_be_extra(tensor, llama3_config(m))) continue;
        extra++;
        first_extra = tensor->name;
    }
    if (missing)
        return fail_input(err, "%s: %d of the model's %d tensors are missing, first %s", folder, missing,
                          table->count, first_missing);
    if (extra)
        return fail_input(err, "%s: %d tensors that the model has not, first %.100s", folder, extra,
                          first_extra);
    return 0;
}

static int check_shape(const SafetensorsReader *reader, const SafetensorsTensor *tensor,
                       const ParameterTensor *t, Error *err) {
    int64_t rows = tensor->dims == 2 ? tensor->shape[0] : 1,
            cols = tensor->dims == 2 ? tensor->shape[1] : tensor->shape[0];
    if (tensor->dims == t->dims && rows == t->rows && cols == t->cols) return 0;
    return fail_input(err, "%s: tensor %s: expected %d dimensions, %d x %d, found %d, %lld x %lld",
                      safetensors_path(reader, tensor), t->name, t->dims, t->rows, t->cols, tensor->dims,
                      (long long)rows, (long long)cols);
}

static int read_tensor(const SafetensorsReader *reader, Llama3 *m, int index, void *raw, floatX *values,
                       Error *err) {
    const ParameterTensor *t = &llama3_parameters(m)->tensors[index];
    const SafetensorsTensor *tensor = safetensors_find(reader, t->name);
    int code = check_shape(reader, tensor, t, err);
    if (!code)
        code =
            safetensors_read(reader, tensor, 0, elements(t) * safetensors_type_size(tensor->type), raw, err);
    if (code) return code;
    size_t not_finite = 0;
    for (size_t i = 0; i < elements(t); i++) {
        float value = widen(raw, i, tensor->type);
        not_finite += !isfinite(value);
        values[i] = narrow(value); // NOLINT(clang-analyzer-unix.Malloc): it takes the sizes of all tensors for 0
    }
    if (not_finite)
        return fail_input(err, "%s: tensor %s: %zu of %zu values are not finite",
                          safetensors_path(reader, tensor), t->name, not_finite, elements(t));
    llama3_set_parameter(m, index, values);
    return 0;
}

int checkpoint_read(const char *folder, Llama3 *m, Error *err) {
    const ParameterTable *table = llama3_parameters(m);
    SafetensorsReader *reader;
    int code = safetensors_open_model(&reader, folder, err);
    if (code) return code;
    void *raw = allocate_largest(table, sizeof(float));
    floatX *values = allocate_largest(table, sizeof *values);
    code = raw && values ? check_names(reader, folder, m, err) : fail_fault(err, "%s: out of memory", folder);
    for (int i = 0; !code && i < table->count; i++) code = read_tensor(reader, m, i, raw, values, err);
    free(values);
    free(raw);
    safetensors_close(reader);
    return code;
}
