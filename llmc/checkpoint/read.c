// The reading half of checkpoint.h: parameters and state.json. The optimizer's state is in read_training.c.
#include "checkpoint/read.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/path.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/checksums.h"
#include "checkpoint/convert.h"
#include "checkpoint/leftovers.h"
#include "checkpoint/parts.h"
#include "checkpoint/safetensors.h"

enum {
    PIECE = 1 << 18, // elements that are in memory at a time; few enough to stay in the cache
    MAX_STATE_BYTES = 16 << 20
};

int checkpoint_verify(const char *folder, Error *err) { return checksums_verify(folder, err); }

// ---- weights

// The directory is that of a model like m, or of the language model that m, a reward model, begins as; both hold no adapters.
// Or of adapters alone.
typedef enum { OF_MODEL, OF_LANGUAGE_MODEL, OF_ADAPTERS } Source;

// A tied model's file may repeat the embedding as lm_head, a reward model has no use for one, and old files hold RoPE's
// frequencies, which the configuration gives.
static bool may_be_extra(const SafetensorsTensor *tensor, const LlamaConfig *config, Source source) {
    const bool head_too = config->tie_word_embeddings || source == OF_LANGUAGE_MODEL;
    if (head_too && strcmp(tensor->name, "lm_head.weight") == 0) return true;
    return leftovers_is_buffer(tensor->name);
}

static bool expects(const ParameterTensor *t, Source source) {
    if (source == OF_ADAPTERS) return t->trained;
    return !parameter_is_adapter(t) && !(source == OF_LANGUAGE_MODEL && strcmp(t->name, "score.weight") == 0);
}

// The file's tensor of that parameter; NULL: none.
static const SafetensorsTensor *find_tensor(const SafetensorsReader *reader, const ParameterTable *table,
                                            const ParameterTensor *t, Source source) {
    char name[SAVED_NAME_SIZE];
    if (source != OF_ADAPTERS) return safetensors_find(reader, t->name);
    saved_name(name, table, t);
    return safetensors_find(reader, name);
}

static bool is_expected(const ParameterTable *table, const char *name, Source source) {
    char saved[SAVED_NAME_SIZE];
    const size_t prefix = strlen("base_model.model.");
    const ParameterTensor *t = parameter_table_find(table, name);
    if (source != OF_ADAPTERS) return t && expects(t, source);
    if (!t && strncmp(name, "base_model.model.", prefix) == 0) t = parameter_table_find(table, name + prefix);
    if (!t || !expects(t, source)) return false;
    saved_name(saved, table, t);
    return strcmp(saved, name) == 0;
}

static int check_names(const SafetensorsReader *reader, const char *folder, Llama3 *m, Source source, Error *err) {
    const ParameterTable *table = llama3_parameters(m);
    int missing = 0, extra = 0, expected = 0;
    char first_missing[SAVED_NAME_SIZE];
    const char *first_extra = NULL;
    for (int i = table->count - 1; i >= 0; i--) {
        const ParameterTensor *t = &table->tensors[i];
        if (!expects(t, source)) continue;
        expected++;
        if (find_tensor(reader, table, t, source)) continue;
        missing++;
        snprintf(first_missing, sizeof first_missing, "%s", t->name);
        if (source == OF_ADAPTERS) saved_name(first_missing, table, t);
    }
    for (int i = safetensors_count(reader) - 1; i >= 0; i--) {
        const SafetensorsTensor *tensor = safetensors_at(reader, i);
        if (is_expected(table, tensor->name, source) || may_be_extra(tensor, llama3_config(m), source)) continue;
        extra++;
        first_extra = tensor->name;
    }
    if (missing) return leftovers_fail_missing(folder, missing, expected, first_missing, first_extra, err);
    return extra ? leftovers_fail(folder, extra, first_extra, err) : 0;
}

static int check_shape(const SafetensorsReader *reader, const SafetensorsTensor *tensor, const ParameterTensor *t,
                       Error *err) {
    int64_t rows = tensor->dims == 2 ? tensor->shape[0] : 1,
            cols = tensor->dims == 2 ? tensor->shape[1] : tensor->shape[0];
    if (tensor->dims == t->dims && rows == t->rows && cols == t->cols) return 0;
    return fail_input(err, "%s: tensor %s: expected %d dimensions, %d x %d, found %d, %lld x %lld",
                      safetensors_path(reader, tensor), t->name, t->dims, t->rows, t->cols, tensor->dims,
                      (long long)rows, (long long)cols);
}

int read_fail_not_finite(const SafetensorsReader *reader, const SafetensorsTensor *tensor, size_t not_finite,
                         size_t all, Error *err) {
    return fail_input(err, "%s: tensor %s: %zu of %zu values are not finite", safetensors_path(reader, tensor),
                      tensor->name, not_finite, all);
}

static int read_weight(SafetensorsReader *reader, Llama3 *m, int index, Source source, floatX *values, Error *err) {
    const ParameterTensor *t = &llama3_parameters(m)->tensors[index];
    const SafetensorsTensor *tensor = find_tensor(reader, llama3_parameters(m), t, source);
    const size_t all = parameter_elements(t), size = safetensors_type_size(tensor->type);
    size_t not_finite = 0;
    int code = check_shape(reader, tensor, t, err);
    for (size_t first = 0; !code && first < all; first += PIECE) {
        const size_t count = all - first < PIECE ? all - first : PIECE;
        const void *raw = NULL;
        code = safetensors_view(reader, tensor, first * size, count * size, &raw, err);
        if (code) return code;
        not_finite += convert_to_x(values, raw, tensor->type, count);
        safetensors_release(reader, tensor, first * size, count * size);
        llama3_set_parameter_piece(m, index, first, count, values);
    }
    return code || !not_finite ? code : read_fail_not_finite(reader, tensor, not_finite, all, err);
}

static int read_all(SafetensorsReader *reader, const char *folder, Llama3 *m, Source source, Error *err) {
    const ParameterTable *table = llama3_parameters(m);
    floatX *values = malloc(PIECE * sizeof *values);
    int code = values ? check_names(reader, folder, m, source, err) : fail_fault(err, "%s: out of memory", folder);
    if (!code && source == OF_MODEL) code = leftovers_check_head(reader, llama3_config(m), err);
    for (int i = 0; !code && i < table->count; i++)
        if (expects(&table->tensors[i], source)) code = read_weight(reader, m, i, source, values, err);
    free(values);
    return code;
}

static int open_source(SafetensorsReader **reader, const char *folder, Source source, Error *err) {
    char path[PATH_MAX];
    if (source != OF_ADAPTERS) return safetensors_open_model(reader, folder, err);
    int code = path_join(path, folder, ADAPTER_FILE, err);
    return code ? code : safetensors_open(reader, path, err);
}

static int read_from(const char *folder, Llama3 *m, Source source, Error *err) {
    SafetensorsReader *reader;
    int code = open_source(&reader, folder, source, err);
    if (code) return code;
    code = read_all(reader, folder, m, source, err);
    safetensors_close(reader);
    return code;
}

int read_parameters(const char *folder, Llama3 *m, Error *err) {
    return read_from(folder, m, llama3_parameters(m)->lora_rank ? OF_ADAPTERS : OF_MODEL, err);
}

int checkpoint_read_language_model(const char *folder, Llama3 *m, uint64_t seed, Error *err) {
    llama3_init_weights(m, seed);
    int code = read_from(folder, m, OF_LANGUAGE_MODEL, err);
    if (!code) code = checksums_verify_weights(folder, err);
    if (!code) llama3_reset_training(m);
    return code;
}

int checkpoint_read_weights(const char *folder, Llama3 *m, Error *err) {
    int code = read_from(folder, m, OF_MODEL, err);
    if (!code) code = checksums_verify_weights(folder, err); // read a moment ago, the files are in memory
    if (!code) llama3_reset_training(m);
    return code;
}

// ---- state.json

static int check_version(const cJSON *state, const char *path, Error *err) {
    const cJSON *version = json_get(state, "format_version"), *program = json_get(state, "program_version");
    if (!cJSON_IsNumber(version))
        return fail_input(err, "%s: format_version is missing, expected a number up to %d", path,
                          CHECKPOINT_FORMAT_VERSION);
    if (version->valuedouble >= 1 && version->valuedouble <= CHECKPOINT_FORMAT_VERSION) return 0;
    return fail_input(err, "%s: format_version is %g, written by version %.60s; this program reads up to %d", path,
                      version->valuedouble, cJSON_IsString(program) ? program->valuestring : "unknown",
                      CHECKPOINT_FORMAT_VERSION);
}

int checkpoint_read_state(const char *folder, cJSON **state, Error *err) {
    char path[PATH_MAX];
    cJSON *read = NULL;
    int code = path_join(path, folder, "trainer/state.json", err);
    if (!code) code = json_read_object(&read, path, MAX_STATE_BYTES, err);
    if (!code) code = json_check_unique(read, path, "", err);
    if (!code) code = check_version(read, path, err);
    if (code)
        cJSON_Delete(read);
    else
        *state = read;
    return code;
}
