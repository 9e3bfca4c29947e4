// The writing half of merge.h.
#include <stdlib.h>
#include <string.h>

#include "base/version.h"
#include "checkpoint/convert.h"
#include "checkpoint/padding.h"
#include "checkpoint/read.h"
#include "loader/tokenizer_files.h"
#include "tools/merge_internal.h"

enum {
    PIECE = 1 << 18, // elements that are merged at a time
    COLUMNS = 1024   // of a row, whose sums stay in the cache
};

typedef struct {
    Merge *m;
    ModelReport report;
    void *context;
    uint64_t done; // bytes read
    ModelFolder folder;
    float *a, *b; // [rank, in] and [out, rank] of the tensor at hand; NULL: it has none
    float wide[PIECE];
    char raw[PIECE * sizeof(float)];
} Output;

// ---- one tensor

// values = elements [first, first + count) of a tensor. *not_finite += how many are none.
static int read_piece(Output *o, const SafetensorsReader *reader, const SafetensorsTensor *tensor, uint64_t first,
                      size_t count, float *values, size_t *not_finite, Error *err) {
    const size_t size = safetensors_type_size(tensor->type);
    int code = safetensors_read(reader, tensor, first * size, count * size, o->raw, err);
    if (code) return code;
    *not_finite += convert_to_f32(values, o->raw, tensor->type, count);
    o->done += count * size;
    return 0;
}

// *values = all of an adapter's tensor.
static int read_factor(Output *o, const SafetensorsTensor *tensor, float **values, Error *err) {
    const uint64_t all = safetensors_elements(tensor);
    size_t not_finite = 0;
    int code = 0;
    *values = malloc((size_t)all * sizeof **values);
    if (!*values) return fail_fault(err, "%s: no memory for tensor %.120s", o->m->spec->adapter, tensor->name);
    for (uint64_t first = 0; !code && first < all; first += PIECE) {
        const size_t count = all - first < PIECE ? (size_t)(all - first) : PIECE;
        code = read_piece(o, o->m->adapter, tensor, first, count, *values + first, &not_finite, err);
    }
    if (!code && not_finite) code = read_fail_not_finite(o->m->adapter, tensor, not_finite, (size_t)all, err);
    return code;
}

// w[count] += scale * b[rank] a[rank, stride], of at most COLUMNS columns
static void add_columns(float *restrict w, const float *restrict b, const float *restrict a, size_t stride, int rank,
                        float scale, size_t count) {
    float sum[COLUMNS];
    memset(sum, 0, count * sizeof *sum);
    for (int k = 0; k < rank; k++)
        for (size_t j = 0; j < count; j++) sum[j] += b[k] * a[(size_t)k * stride + j];
    for (size_t j = 0; j < count; j++) w[j] += scale * sum[j];
}

// wide = elements [first, first + count) of the matrix, row by row
static void add_product(Output *o, const MergePart *part, uint64_t first, size_t count, size_t columns) {
    const int rank = part->rank;
    for (size_t done = 0, now = 0; done < count; done += now) {
        const size_t row = (size_t)((first + done) / columns), column = (size_t)((first + done) % columns);
        now = columns - column < COLUMNS ? columns - column : COLUMNS;
        if (now > count - done) now = count - done;
        add_columns(o->wide + done, o->b + row * (size_t)rank, o->a + column, columns, rank, (float)part->scale, now);
    }
}

static int check_values(const Output *o, const SafetensorsReader *reader, const SafetensorsTensor *source, int t,
                        size_t not_finite, size_t too_large, Error *err) {
    const SafetensorsTensor *tensor = &o->m->tensors[t].tensor;
    const uint64_t all = safetensors_elements(source);
    if (not_finite) return read_fail_not_finite(reader, source, not_finite, (size_t)all, err);
    if (!too_large) return 0;
    return fail_input(err, "%s: tensor %.120s: %zu of %llu merged values are beyond the largest %s", o->m->spec->output,
                      tensor->name, too_large, (unsigned long long)all, safetensors_type_name(tensor->type));
}

static int put_values(Output *o, SafetensorsWriter *writer, int t, Error *err) {
    const MergePart *part = &o->m->parts[t];
    const SafetensorsTensor *source = part->whole ? part->whole : part->base;
    const SafetensorsReader *reader = part->whole ? o->m->adapter : o->m->base;
    const SafetensorsType type = o->m->tensors[t].tensor.type;
    const uint64_t all = safetensors_elements(source);
    size_t not_finite = 0, too_large = 0;
    int code = 0;
    for (uint64_t first = 0; !code && first < all; first += PIECE) {
        const size_t count = all - first < PIECE ? (size_t)(all - first) : PIECE;
        code = read_piece(o, reader, source, first, count, o->wide, &not_finite, err);
        if (!code && part->a) add_product(o, part, first, count, (size_t)source->shape[1]);
        if (code) break;
        too_large += convert_from_f32(o->raw, type, o->wide, count);
        code = safetensors_write(writer, o->raw, count * safetensors_type_size(type), err);
        if (!code && o->report && !o->report(o->context, o->done, o->m->read_bytes))
            code = fail_fault(err, "%s: given up", o->m->spec->output);
    }
    return code ? code : check_values(o, reader, source, t, not_finite, too_large, err);
}

// *values, [rows, columns], becomes [columns, rows].
static int transpose(const Output *o, float **values, size_t rows, size_t columns, Error *err) {
    float *turned = malloc(rows * columns * sizeof *turned);
    if (!turned) return fail_fault(err, "%s: no memory for its factors", o->m->spec->adapter);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j++) turned[j * rows + i] = (*values)[i * columns + j];
    free(*values);
    *values = turned;
    return 0;
}

// A lookup's: base + scale (b a)^T = base + scale a^T b^T, so that these are b and a.
static int turn_factors(Output *o, const MergePart *part, Error *err) {
    const size_t rank = (size_t)part->rank;
    int code = transpose(o, &o->a, rank, (size_t)part->a->shape[1], err);
    if (!code) code = transpose(o, &o->b, (size_t)part->b->shape[0], rank, err);
    float *a = o->a;
    o->a = o->b;
    o->b = a;
    return code;
}

static int merge_tensor(void *context, SafetensorsWriter *writer, int t, Error *err) {
    Output *o = context;
    const MergePart *part = &o->m->parts[t];
    int code = part->a ? read_factor(o, part->a, &o->a, err) : 0;
    if (!code && part->b) code = read_factor(o, part->b, &o->b, err);
    if (!code && part->embedding && part->a && part->b) code = turn_factors(o, part, err);
    if (!code) code = put_values(o, writer, t, err);
    free(o->a);
    free(o->b);
    o->a = o->b = NULL;
    return code;
}

// ---- texts

// Of matrices with several: the least and the greatest.
static void add_range(cJSON *root, const char *name, MergeRange range) {
    const double both[] = {range.least, range.most};
    if (range.least == range.most)
        cJSON_AddNumberToObject(root, name, range.least);
    else
        cJSON_AddItemToObject(root, name, cJSON_CreateDoubleArray(both, 2));
}

static int write_mark(const Output *o, Error *err) {
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "program_version", LLMC_VERSION);
    cJSON_AddStringToObject(root, "dtype", model_type_name(o->m->spec->type));
    cJSON_AddStringToObject(root, "base", o->m->base_folder);
    cJSON_AddStringToObject(root, "adapter", o->m->spec->adapter);
    const MergeRange ranks = merge_ranks(o->m), scales = merge_scales(o->m);
    add_range(root, "r", ranks);
    if (ranks.most > 0) add_range(root, "scale", scales);
    return model_folder_write_json(&o->folder, MERGE_MARK, root, err);
}

// to's types become from's, or are absent as there.
static void take_types(cJSON *to, const cJSON *from) {
    static const char *const names[] = {"torch_dtype", "dtype"};
    for (int i = 0; i < 2; i++) {
        const cJSON *type = json_get(from, names[i]);
        cJSON_DeleteItemFromObjectCaseSensitive(to, names[i]);
        if (type) cJSON_AddItemToObject(to, names[i], cJSON_Duplicate(type, true));
    }
}

// *json, the base's, becomes a reward model's.
static int make_reward_config(const Merge *m, cJSON **json, Error *err) {
    char *text = NULL;
    cJSON *made = NULL;
    int code = llama_config_print(&m->config, m->base_config, &text, err);
    if (!code) code = json_parse_object(&made, text, strlen(text), m->base_config, err);
    cJSON_free(text);
    if (code) return code;
    take_types(made, *json);
    cJSON_Delete(*json);
    *json = made;
    return 0;
}

static int write_config(const Output *o, Error *err) {
    const Merge *m = o->m;
    cJSON *json = NULL;
    if (m->spec->type == MODEL_SAME && !m->becomes_reward && !m->unties)
        return model_folder_copy(&o->folder, m->base_folder, "config.json", err);
    int code = json_read_object(&json, m->base_config, MODEL_CONFIG_BYTES, err);
    if (!code && m->becomes_reward) code = make_reward_config(m, &json, err);
    if (!code && m->unties) {
        cJSON_DeleteItemFromObjectCaseSensitive(json, "tie_word_embeddings");
        cJSON_AddFalseToObject(json, "tie_word_embeddings");
    }
    if (!code) return model_folder_write_config(&o->folder, json, m->spec->type, err);
    cJSON_Delete(json);
    return code;
}

static bool has_file(const char *folder, int file) { return model_folder_has(folder, tokenizer_files[file]); }

// A tokenizer's files belong together: all are the adapter's where it has one. So do a template and the configuration that
// may hold one, too.
static int write_texts(const Output *o, Error *err) {
    const char *adapter = o->m->spec->adapter, *base = o->m->base_folder;
    const bool tokenizer = has_file(adapter, TOKENIZER_JSON) || has_file(adapter, TOKENIZER_MODEL);
    const bool config = has_file(adapter, TOKENIZER_CONFIG);
    const bool template = config || has_file(adapter, TOKENIZER_TEMPLATE);
    const bool generation = model_folder_has(adapter, "generation_config.json");
    int code = write_config(o, err);
    for (int i = 0; !code && i < TOKENIZER_FILES; i++) {
        const bool own = i == TOKENIZER_CONFIG ? config : i == TOKENIZER_TEMPLATE ? template : tokenizer;
        code = model_folder_copy(&o->folder, own ? adapter : base, tokenizer_files[i], err);
    }
    if (!code) code = model_folder_copy(&o->folder, generation ? adapter : base, "generation_config.json", err);
    return code ? code : padding_settle_model(o->folder.folder, err);
}

static int fill(Output *o, Error *err) {
    const Merge *m = o->m;
    int code = write_mark(o, err);
    if (!code) code = write_texts(o, err);
    if (!code) code = model_folder_write_index(&o->folder, m->tensors, m->count, err);
    return code ? code : model_folder_write_tensors(&o->folder, m->tensors, m->count, merge_tensor, o, err);
}

int merge_write(Merge *m, ModelReport report, void *context, Error *err) {
    Output *o = malloc(sizeof *o);
    if (!o) return fail_fault(err, "%s: no memory", m->spec->output);
    o->m = m;
    o->report = report;
    o->context = context;
    o->done = 0;
    o->a = o->b = NULL;
    int code = model_folder_begin(&o->folder, &merge_maker, m->spec->output, m->write_bytes, err);
    if (!code) code = model_folder_end(&o->folder, fill(o, err), err);
    free(o);
    return code;
}
