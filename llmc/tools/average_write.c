// The writing half of average.h.
#include <stdlib.h>

#include "base/path.h"
#include "base/version.h"
#include "checkpoint/convert.h"
#include "checkpoint/padding.h"
#include "checkpoint/read.h"
#include "loader/tokenizer_files.h"
#include "tools/average_internal.h"

enum { PIECE = 1 << 18 }; // elements that are averaged at a time

typedef struct {
    Average *a;
    ModelReport report;
    void *context;
    uint64_t done; // bytes read
    ModelFolder folder;
    double sum[PIECE];
    float wide[PIECE];
    char raw[PIECE * sizeof(float)];
} Output;

// ---- one tensor

static int add_piece(Output *o, int i, const SafetensorsTensor *tensor, uint64_t first, size_t count,
                     size_t *not_finite, Error *err) {
    const AverageInput *input = &o->a->inputs[i];
    const size_t size = safetensors_type_size(tensor->type);
    int code = safetensors_read(input->reader, tensor, first * size, count * size, o->raw, err);
    if (code) return code;
    *not_finite += convert_to_f32(o->wide, o->raw, tensor->type, count);
    if (i == 0) // not added to 0, which would make -0 to 0
        for (size_t k = 0; k < count; k++) o->sum[k] = input->weight * (double)o->wide[k];
    else
        for (size_t k = 0; k < count; k++) o->sum[k] += input->weight * (double)o->wide[k];
    o->done += count * size;
    return 0;
}

// out = the sum, in raw. *too_large += how many have no place in the type.
static int put_piece(Output *o, SafetensorsWriter *writer, SafetensorsType type, size_t count, size_t *too_large,
                     Error *err) {
    for (size_t k = 0; k < count; k++) o->wide[k] = (float)o->sum[k];
    *too_large += convert_from_f32(o->raw, type, o->wide, count);
    return safetensors_write(writer, o->raw, count * safetensors_type_size(type), err);
}

static int average_piece(Output *o, SafetensorsWriter *writer, int t, uint64_t first, size_t count, size_t *not_finite,
                         size_t *too_large, Error *err) {
    const SafetensorsTensor *like = safetensors_at(o->a->inputs[0].reader, t);
    int code = 0;
    for (int i = 0; !code && i < o->a->spec->count; i++)
        code = add_piece(o, i, safetensors_at(o->a->inputs[i].reader, t), first, count, &not_finite[i], err);
    if (!code) code = put_piece(o, writer, average_out_type(o->a, like), count, too_large, err);
    if (!code && o->report && !o->report(o->context, o->done, o->a->read_bytes))
        code = fail_fault(err, "%s: given up", o->a->spec->output);
    return code;
}

static int check_values(const Output *o, int t, uint64_t all, const size_t *not_finite, size_t too_large, Error *err) {
    const SafetensorsTensor *like = safetensors_at(o->a->inputs[0].reader, t);
    for (int i = 0; i < o->a->spec->count; i++) {
        const SafetensorsReader *reader = o->a->inputs[i].reader;
        if (not_finite[i]) return read_fail_not_finite(reader, safetensors_at(reader, t), not_finite[i], all, err);
    }
    if (!too_large) return 0;
    return fail_input(err, "%s: tensor %.120s: %zu of %llu averages are beyond the largest %s", o->a->spec->output,
                      like->name, too_large, (unsigned long long)all,
                      safetensors_type_name(average_out_type(o->a, like)));
}

static int average_tensor(void *context, SafetensorsWriter *writer, int t, Error *err) {
    Output *o = context;
    const SafetensorsTensor *like = safetensors_at(o->a->inputs[0].reader, t);
    const uint64_t all = safetensors_elements(like);
    size_t *not_finite = calloc((size_t)o->a->spec->count, sizeof *not_finite), too_large = 0;
    if (!not_finite) return fail_fault(err, "%s: no memory", o->a->spec->output);
    int code = 0;
    for (uint64_t first = 0; !code && first < all; first += PIECE) {
        const size_t count = all - first < PIECE ? (size_t)(all - first) : PIECE;
        code = average_piece(o, writer, t, first, count, not_finite, &too_large, err);
    }
    if (!code) code = check_values(o, t, all, not_finite, too_large, err);
    free(not_finite);
    return code;
}

// ---- texts

static int write_mark(const Output *o, Error *err) {
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "program_version", LLMC_VERSION);
    cJSON_AddStringToObject(root, "dtype", model_type_name(o->a->spec->type));
    cJSON *list = cJSON_AddArrayToObject(root, "checkpoints");
    for (int i = 0; i < o->a->spec->count; i++) {
        cJSON *item = cJSON_CreateObject();
        cJSON_AddStringToObject(item, "folder", o->a->inputs[i].folder);
        cJSON_AddNumberToObject(item, "weight", o->a->inputs[i].weight);
        cJSON_AddItemToArray(list, item);
    }
    return model_folder_write_json(&o->folder, AVERAGE_MARK, root, err);
}

static int write_config(const Output *o, Error *err) {
    char path[PATH_MAX];
    cJSON *json = NULL;
    const char *first = o->a->inputs[0].folder;
    if (o->a->spec->type == MODEL_SAME || o->a->adapter)
        return model_folder_copy(&o->folder, first, "config.json", err);
    int code = path_join(path, first, "config.json", err);
    if (!code) code = json_read_object(&json, path, MODEL_CONFIG_BYTES, err);
    return code ? code : model_folder_write_config(&o->folder, json, o->a->spec->type, err);
}

static int write_texts(const Output *o, Error *err) {
    const char *first = o->a->inputs[0].folder;
    int code = write_config(o, err);
    if (!code && o->a->adapter) code = model_folder_copy(&o->folder, first, "adapter_config.json", err);
    if (!code) code = model_folder_copy(&o->folder, first, "generation_config.json", err);
    for (int i = 0; !code && i < TOKENIZER_FILES; i++)
        code = model_folder_copy(&o->folder, first, tokenizer_files[i], err);
    return code ? code : padding_settle_model(o->folder.folder, err);
}

// ---- the folder

static int fill(Output *o, const ModelTensor *tensors, int count, Error *err) {
    int code = write_mark(o, err);
    if (!code) code = write_texts(o, err);
    if (!code && !o->a->adapter) code = model_folder_write_index(&o->folder, tensors, count, err);
    return code ? code : model_folder_write_tensors(&o->folder, tensors, count, average_tensor, o, err);
}

static int write_output(Output *o, ModelTensor *tensors, int count, Error *err) {
    const SafetensorsReader *first = o->a->inputs[0].reader;
    for (int t = 0; t < count; t++) {
        tensors[t] = (ModelTensor){*safetensors_at(first, t), model_file_of(first, safetensors_at(first, t))};
        tensors[t].tensor.type = average_out_type(o->a, &tensors[t].tensor);
    }
    int code = model_folder_begin(&o->folder, &average_maker, o->a->spec->output, o->a->write_bytes, err);
    return code ? code : model_folder_end(&o->folder, fill(o, tensors, count, err), err);
}

int average_write(Average *a, ModelReport report, void *context, Error *err) {
    const int count = average_num_tensors(a);
    Output *o = malloc(sizeof *o);
    ModelTensor *tensors = calloc((size_t)count + 1, sizeof *tensors);
    int code = o && tensors ? 0 : fail_fault(err, "%s: no memory", a->spec->output);
    if (!code) {
        o->a = a;
        o->report = report;
        o->context = context;
        o->done = 0;
        code = write_output(o, tensors, count, err);
    }
    free(tensors);
    free(o);
    return code;
}
