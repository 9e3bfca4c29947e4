// The writing half of safetensors.h.
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/new_file.h"
#include "checkpoint/safetensors.h"

struct SafetensorsWriter {
    NewFile file;
    uint64_t data_bytes, written; // of the data: declared, and taken so far
};

static int add_tensor(cJSON *header, const SafetensorsTensor *tensor, uint64_t *offset, const char *path, Error *err) {
    uint64_t bytes = 0, end;
    bool valid = tensor->dims >= 0 && tensor->dims <= SAFETENSORS_MAX_DIMS && strcmp(tensor->name, "__metadata__") != 0;
    for (int i = 0; i < tensor->dims && valid; i++) valid = tensor->shape[i] >= 0;
    // 10^15: up to there cJSON prints numbers in full
    if (!valid || !safetensors_checked_bytes(tensor, &bytes) || (end = *offset + bytes) > 1000000000000000u) {
        return fail_input(err, "%s: tensor \"%.120s\" to be written: bad name, type or shape", path, tensor->name);
    }
    cJSON *item = cJSON_AddObjectToObject(header, tensor->name);
    cJSON_AddStringToObject(item, "dtype", safetensors_type_name(tensor->type));
    cJSON *shape = cJSON_AddArrayToObject(item, "shape"), *offsets = cJSON_AddArrayToObject(item, "data_offsets");
    for (int i = 0; i < tensor->dims; i++) cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)tensor->shape[i]));
    cJSON_AddItemToArray(offsets, cJSON_CreateNumber((double)*offset));
    cJSON_AddItemToArray(offsets, cJSON_CreateNumber((double)end));
    *offset = end;
    return 0;
}

// *text = the header's JSON, to be freed by cJSON_free; *data_bytes = what must follow it.
static int make_header(char **text, uint64_t *data_bytes, const SafetensorsTensor *tensors, int count,
                       const SafetensorsMetadata *more, const char *path, Error *err) {
    cJSON *header = cJSON_CreateObject(), *metadata = cJSON_AddObjectToObject(header, "__metadata__");
    cJSON_AddStringToObject(metadata, "format", "pt");
    for (; more && more->key; more++) cJSON_AddStringToObject(metadata, more->key, more->value);
    int code = 0;
    *data_bytes = 0;
    for (int i = 0; i < count && code == 0; i++) code = add_tensor(header, &tensors[i], data_bytes, path, err);
    if (code == 0) code = json_check_unique(header, path, "tensor ", err);
    if (code == 0) {
        *text = cJSON_PrintUnformatted(header);
        if (*text == NULL) code = fail_fault(err, "%s: no memory for its header", path);
    }
    cJSON_Delete(header);
    return code;
}

// Spaces after the JSON bring the data to a multiple of 8 bytes.
static int write_header(NewFile *file, const char *text, Error *err) {
    size_t length = strlen(text), padded = (length + 7) / 8 * 8;
    if (padded > SAFETENSORS_MAX_HEADER) {
        return fail_input(err, "%s: header length is %zu, expected at most %d", file->path, padded,
                          SAFETENSORS_MAX_HEADER);
    }
    uint8_t prefix[8];
    for (int i = 0; i < 8; i++) prefix[i] = (uint8_t)((uint64_t)padded >> 8 * i);
    int code = file_append(file, prefix, sizeof prefix, err);
    if (code == 0) code = file_append(file, text, length, err);
    if (code == 0) code = file_append(file, "        ", padded - length, err);
    return code;
}

static int begin_file(SafetensorsWriter *writer, const char *path, bool plain, const char *header, Error *err) {
    int code = plain ? file_begin_plain(&writer->file, path, err) : file_begin(&writer->file, path, err);
    if (code != 0) return code;
    code = write_header(&writer->file, header, err);
    if (code != 0) file_discard(&writer->file);
    return code;
}

static int create(SafetensorsWriter **out, const char *path, bool plain, const SafetensorsTensor *tensors, int count,
                  const SafetensorsMetadata *metadata, Error *err) {
    char *header = NULL;
    uint64_t data_bytes = 0;
    int code = make_header(&header, &data_bytes, tensors, count, metadata, path, err);
    if (code != 0) return code;
    SafetensorsWriter *writer = calloc(1, sizeof *writer);
    code = writer == NULL ? fail_fault(err, "%s: no memory", path) : begin_file(writer, path, plain, header, err);
    cJSON_free(header);
    if (code != 0) {
        free(writer);
        return code;
    }
    writer->data_bytes = data_bytes;
    *out = writer;
    return 0;
}

int safetensors_create(SafetensorsWriter **out, const char *path, const SafetensorsTensor *tensors, int count,
                       Error *err) {
    return create(out, path, false, tensors, count, NULL, err);
}

int safetensors_create_plain(SafetensorsWriter **out, const char *path, const SafetensorsTensor *tensors, int count,
                             const SafetensorsMetadata *metadata, Error *err) {
    return create(out, path, true, tensors, count, metadata, err);
}

Digest safetensors_digest(const SafetensorsWriter *writer) { return file_digest(&writer->file); }

uint64_t safetensors_written(const SafetensorsWriter *writer) { return writer->file.written + writer->file.filled; }

int safetensors_write(SafetensorsWriter *writer, const void *data, size_t bytes, Error *err) {
    if (bytes > writer->data_bytes - writer->written) {
        return fail_fault(err, "%s: %llu bytes more than its tensors have", writer->file.path,
                          (unsigned long long)(bytes - (writer->data_bytes - writer->written)));
    }
    writer->written += bytes;
    return file_append(&writer->file, data, bytes, err);
}

int safetensors_finish(SafetensorsWriter *writer, Error *err) {
    if (writer->written != writer->data_bytes) {
        int code = fail_fault(err, "%s: %llu bytes written, expected %llu", writer->file.path,
                              (unsigned long long)writer->written, (unsigned long long)writer->data_bytes);
        safetensors_discard(writer);
        return code;
    }
    int code = file_commit(&writer->file, err);
    free(writer);
    return code;
}

void safetensors_discard(SafetensorsWriter *writer) {
    if (writer == NULL) return;
    file_discard(&writer->file);
    free(writer);
}
