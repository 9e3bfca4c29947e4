#include "checkpoint/safetensors_file.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"

// ---- one tensor

static int parse_type(SafetensorsEntry *entry, const cJSON *dtype, const char *path, Error *err) {
    for (int i = 0; i < SAFETENSORS_TYPES && cJSON_IsString(dtype); i++) {
        if (strcmp(dtype->valuestring, safetensors_type_name((SafetensorsType)i)) != 0) continue;
        entry->tensor.type = (SafetensorsType)i;
        return 0;
    }
    return fail_input(err, "%s: tensor \"%.120s\": dtype is %.20s, expected F32, BF16 or F16", path, entry->tensor.name,
                      cJSON_IsString(dtype) ? dtype->valuestring : "missing");
}

static int parse_shape(SafetensorsEntry *entry, const cJSON *shape, const char *path, Error *err) {
    SafetensorsTensor *tensor = &entry->tensor;
    int dims = 0;
    if (!cJSON_IsArray(shape)) return fail_input(err, "%s: tensor \"%.120s\": shape is not a list", path, tensor->name);
    for (int i = 0; i < SAFETENSORS_MAX_DIMS; i++) tensor->shape[i] = 1;
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, shape) {
        uint64_t size;
        if (dims == SAFETENSORS_MAX_DIMS) {
            return fail_input(err, "%s: tensor \"%.120s\": shape has more than %d dimensions", path, tensor->name,
                              SAFETENSORS_MAX_DIMS);
        }
        if (!json_is_count(item, UINT64_MAX, &size)) {
            return fail_input(err, "%s: tensor \"%.120s\": shape[%d] is not an integer from 0 to 2^53", path,
                              tensor->name, dims);
        }
        tensor->shape[dims++] = (int64_t)size;
    }
    tensor->dims = dims;
    return 0;
}

static int parse_offsets(SafetensorsEntry *entry, const cJSON *offsets, const char *path, Error *err) {
    const char *name = entry->tensor.name;
    if (!cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2 ||
        !json_is_count(offsets->child, UINT64_MAX, &entry->begin) ||
        !json_is_count(offsets->child->next, UINT64_MAX, &entry->end) || entry->begin > entry->end) {
        return fail_input(err, "%s: tensor \"%.120s\": data_offsets is not [begin, end] with 0 <= begin <= end", path,
                          name);
    }
    uint64_t bytes;
    if (!safetensors_checked_bytes(&entry->tensor, &bytes))
        return fail_input(err, "%s: tensor \"%.120s\": shape overflows", path, name);
    if (entry->end - entry->begin != bytes) {
        return fail_input(err,
                          "%s: tensor \"%.120s\": data_offsets span %llu bytes, expected %llu for its shape and dtype",
                          path, name, (unsigned long long)(entry->end - entry->begin), (unsigned long long)bytes);
    }
    return 0;
}

static int parse_entry(SafetensorsEntry *entry, const cJSON *json, const char *path, Error *err) {
    entry->tensor.name = json->string;
    if (!cJSON_IsObject(json)) return fail_input(err, "%s: tensor \"%.120s\": expected an object", path, json->string);
    int code = json_check_unique(json, path, "in a tensor: ", err);
    if (code == 0) code = parse_type(entry, json_get(json, "dtype"), path, err);
    if (code == 0) code = parse_shape(entry, json_get(json, "shape"), path, err);
    if (code == 0) code = parse_offsets(entry, json_get(json, "data_offsets"), path, err);
    return code;
}

static int check_metadata(const cJSON *json, const char *path, Error *err) {
    if (!cJSON_IsObject(json)) return fail_input(err, "%s: __metadata__ is not an object", path);
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, json) {
        if (!cJSON_IsString(item))
            return fail_input(err, "%s: __metadata__: \"%.120s\" is not text", path, item->string);
    }
    return 0;
}

// The whole header into entries (room for all its members); *count of them =.
static int parse_header(SafetensorsEntry *entries, int *count, const SafetensorsFile *file, int index, Error *err) {
    const cJSON *json = NULL;
    *count = 0;
    int code = json_check_unique(file->header, file->path, "tensor ", err);
    if (code != 0) return code;
    cJSON_ArrayForEach(json, file->header) {
        if (strcmp(json->string, "__metadata__") == 0) {
            code = check_metadata(json, file->path, err);
        } else {
            entries[*count].file = index;
            code = parse_entry(&entries[(*count)++], json, file->path, err);
        }
        if (code != 0) return code;
    }
    return 0;
}

// ---- the file

// Tensors must tile the file's data: each begins where the one before ends, the last ends with the file.

static int compare_offsets(const void *a, const void *b) {
    const SafetensorsEntry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static int check_tiling(SafetensorsEntry *entries, int count, const SafetensorsFile *file, Error *err) {
    uint64_t at = 0, data_bytes = file->size - file->data;
    qsort(entries, (size_t)count, sizeof *entries, compare_offsets);
    for (int i = 0; i < count; i++) {
        if (entries[i].end > data_bytes) {
            return fail_input(err, "%s: tensor \"%.120s\" ends at byte %llu of the data, the file has %llu: truncated?",
                              file->path, entries[i].tensor.name, (unsigned long long)entries[i].end,
                              (unsigned long long)data_bytes);
        }
        if (entries[i].begin != at) {
            return fail_input(err, "%s: tensor \"%.120s\" begins at byte %llu of the data, expected %llu: %s",
                              file->path, entries[i].tensor.name, (unsigned long long)entries[i].begin,
                              (unsigned long long)at,
                              entries[i].begin < at ? "tensors overlap" : "gap between tensors");
        }
        at = entries[i].end;
    }
    if (at == data_bytes) return 0;
    return fail_input(err, "%s: tensors end at byte %llu of the data, the file has %llu", file->path,
                      (unsigned long long)at, (unsigned long long)data_bytes);
}

static int parse_header_text(SafetensorsFile *file, uint64_t length, Error *err) {
    char *text = malloc((size_t)length + 1);
    if (text == NULL) return fail_fault(err, "%s: no memory for its header", file->path);
    int code = file_read_at(file->fd, text, (size_t)length, 8, file->path, err);
    if (code == 0 && text[0] != '{') code = fail_input(err, "%s: header does not begin with '{'", file->path);
    if (code == 0) code = json_parse_object(&file->header, text, (size_t)length, file->path, err);
    free(text);
    return code;
}

static int read_header(SafetensorsFile *file, Error *err) {
    uint8_t prefix[8];
    uint64_t length = 0;
    if (file->size < 8) {
        return fail_input(err, "%s: file has %llu bytes, expected at least the 8 of a safetensors header length",
                          file->path, (unsigned long long)file->size);
    }
    int code = file_read_at(file->fd, prefix, sizeof prefix, 0, file->path, err);
    if (code != 0) return code;
    if (memcmp(prefix, "version ", sizeof prefix) == 0)
        return fail_input(err, "%s: is a pointer of Git LFS, expected the file itself: git lfs pull", file->path);
    for (int i = 7; i >= 0; i--) length = length << 8 | prefix[i];
    if (length > file->size - 8) {
        return fail_input(err, "%s: header length %llu exceeds file size %llu", file->path, (unsigned long long)length,
                          (unsigned long long)file->size);
    }
    if (length < 2 || length > SAFETENSORS_MAX_HEADER) {
        return fail_input(err, "%s: header length is %llu, expected 2 to %d", file->path, (unsigned long long)length,
                          SAFETENSORS_MAX_HEADER);
    }
    file->data = 8 + length;
    return parse_header_text(file, length, err);
}

int safetensors_file_open(SafetensorsFile *file, const char *path, Error *err) {
    *file = (SafetensorsFile){.fd = -1, .path = strdup(path)};
    if (file->path == NULL) return fail_fault(err, "%s: no memory", path);
    int code = file_open_read(path, &file->fd, &file->size, err);
    return code != 0 ? code : read_header(file, err);
}

int safetensors_file_entries(const SafetensorsFile *file, int index, SafetensorsEntry *entries, int *count,
                             Error *err) {
    int code = parse_header(entries, count, file, index, err);
    return code != 0 ? code : check_tiling(entries, *count, file, err);
}

void safetensors_file_close(SafetensorsFile *file) {
    if (file->map) munmap(file->map, file->size);
    if (file->fd >= 0) close(file->fd);
    cJSON_Delete(file->header);
    free(file->path);
}
