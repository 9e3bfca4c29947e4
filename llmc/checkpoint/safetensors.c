#include "checkpoint/safetensors.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/path.h"
#include "base/text.h"
#include "model/no_model.h"

// ---- Element types

static const struct {
    const char *name;
    size_t size;
} types[] = {[SAFETENSORS_F32] = {"F32", 4}, [SAFETENSORS_BF16] = {"BF16", 2}, [SAFETENSORS_F16] = {"F16", 2}};
static const int num_types = sizeof types / sizeof *types;

const char *safetensors_type_name(SafetensorsType type) { return types[type].name; }
size_t safetensors_type_size(SafetensorsType type) { return types[type].size; }

bool safetensors_checked_bytes(const SafetensorsTensor *tensor, uint64_t *bytes) {
    if ((int)tensor->type < 0 || (int)tensor->type >= num_types) return false;
    int64_t product = (int64_t)types[tensor->type].size;
    bool empty = false;
    for (int i = 0; i < tensor->dims; i++) {
        // a zero does not excuse the other dimensions: their product must fit too
        if (tensor->shape[i] == 0)
            empty = true;
        else if (__builtin_mul_overflow(product, tensor->shape[i], &product))
            return false;
    }
    *bytes = empty ? 0 : (uint64_t)product;
    return true;
}

uint64_t safetensors_tensor_bytes(const SafetensorsTensor *tensor) {
    uint64_t bytes = 0;
    bool fits = safetensors_checked_bytes(tensor, &bytes);
    assert(fits);
    (void)fits;
    return bytes;
}

uint64_t safetensors_elements(const SafetensorsTensor *tensor) {
    return safetensors_tensor_bytes(tensor) / safetensors_type_size(tensor->type);
}

// ---- Reader

typedef struct {
    SafetensorsTensor tensor; // first, so that a caller's tensor is its entry
    uint64_t begin, end;      // from the start of the file's data; in the file's order, no gap
    int file;
} Entry;

typedef struct {
    char *path; // owned
    int fd;
    uint64_t size, data; // bytes of the file; where its data begins
    cJSON *header;       // owns the names of the tensors
    char *map;           // the whole file; NULL: not mapped
} File;

struct SafetensorsReader {
    File *files;
    int num_files;
    Entry *entries;
    int num_entries;
};

static const char *entry_path(const SafetensorsReader *reader, const Entry *entry) {
    return reader->files[entry->file].path;
}

const char *safetensors_metadata(const SafetensorsReader *reader, const char *key) {
    const cJSON *metadata = json_get(reader->files[0].header, "__metadata__");
    const cJSON *value = metadata ? json_get(metadata, key) : NULL;
    return value ? value->valuestring : NULL; // text, as was checked
}

// One entry's JSON object into *entry.

static int parse_type(Entry *entry, const cJSON *dtype, const char *path, Error *err) {
    for (int i = 0; i < num_types && cJSON_IsString(dtype); i++) {
        if (strcmp(dtype->valuestring, types[i].name) != 0) continue;
        entry->tensor.type = (SafetensorsType)i;
        return 0;
    }
    return fail_input(err, "%s: tensor \"%.120s\": dtype is %.20s, expected F32, BF16 or F16", path, entry->tensor.name,
                      cJSON_IsString(dtype) ? dtype->valuestring : "missing");
}

static int parse_shape(Entry *entry, const cJSON *shape, const char *path, Error *err) {
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

static int parse_offsets(Entry *entry, const cJSON *offsets, const char *path, Error *err) {
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

static int parse_entry(Entry *entry, const cJSON *json, const char *path, Error *err) {
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
static int parse_header(Entry *entries, int *count, const File *file, int index, Error *err) {
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

// Tensors must tile the file's data: each begins where the one before ends, the last ends with the file.

static int compare_offsets(const void *a, const void *b) {
    const Entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static int check_tiling(Entry *entries, int count, const File *file, Error *err) {
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

static int parse_header_text(File *file, uint64_t length, Error *err) {
    char *text = malloc((size_t)length + 1);
    if (text == NULL) return fail_fault(err, "%s: no memory for its header", file->path);
    int code = file_read_at(file->fd, text, (size_t)length, 8, file->path, err);
    if (code == 0 && text[0] != '{') code = fail_input(err, "%s: header does not begin with '{'", file->path);
    if (code == 0) code = json_parse_object(&file->header, text, (size_t)length, file->path, err);
    free(text);
    return code;
}

static int read_header(File *file, Error *err) {
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

// The reader takes the file's tensors in.
static int add_entries(SafetensorsReader *reader, int index, Error *err) {
    const File *file = &reader->files[index];
    size_t room = (size_t)reader->num_entries + (size_t)cJSON_GetArraySize(file->header) + 1;
    Entry *entries = realloc(reader->entries, room * sizeof *entries);
    if (entries == NULL) return fail_fault(err, "%s: no memory for its tensors", file->path);
    reader->entries = entries;

    int count = 0;
    Entry *fresh = entries + reader->num_entries;
    int code = parse_header(fresh, &count, file, index, err);
    if (code == 0) code = check_tiling(fresh, count, file, err);
    if (code == 0) reader->num_entries += count;
    return code;
}

static int add_file(SafetensorsReader *reader, const char *path, Error *err) {
    File *files = realloc(reader->files, ((size_t)reader->num_files + 1) * sizeof *files);
    if (files == NULL) return fail_fault(err, "%s: no memory", path);
    reader->files = files;
    File *file = &files[reader->num_files];
    *file = (File){.fd = -1, .path = strdup(path)};
    if (file->path == NULL) return fail_fault(err, "%s: no memory", path);
    reader->num_files++;
    int code = file_open_read(path, &file->fd, &file->size, err);
    if (code == 0) code = read_header(file, err);
    if (code == 0) code = add_entries(reader, reader->num_files - 1, err);
    return code;
}

static int compare_entries(const void *a, const void *b) {
    return strcmp(((const Entry *)a)->tensor.name, ((const Entry *)b)->tensor.name);
}

static int sort_entries(SafetensorsReader *reader, Error *err) {
    Entry *entries = reader->entries;
    if (reader->num_entries > 0) qsort(entries, (size_t)reader->num_entries, sizeof *entries, compare_entries);
    for (int i = 1; i < reader->num_entries; i++) {
        if (strcmp(entries[i - 1].tensor.name, entries[i].tensor.name) != 0) continue;
        return fail_input(err, "%s: tensor \"%.120s\" is in %s too, expected in one file",
                          entry_path(reader, &entries[i]), entries[i].tensor.name, entry_path(reader, &entries[i - 1]));
    }
    return 0;
}

// ---- Models

static int refuse_pickle(const char *path, const char *name, Error *err) {
    return fail_input(err, "%s: \"%.120s\" is a pickle: not supported, convert to safetensors", path, name);
}

// A file that an index names must be a plain name: no way out of the model's folder.
static int check_file_name(const char *name, const char *index_path, Error *err) {
    if (is_pickle_name(name)) return refuse_pickle(index_path, name, err);
    if (strchr(name, '/') != NULL || strchr(name, '\\') != NULL || strstr(name, "..") != NULL) {
        return fail_input(err, "%s: file name \"%.120s\" leaves the folder, expected a plain name", index_path, name);
    }
    if (text_ends_with(name, ".safetensors")) return 0;
    return fail_input(err, "%s: file name \"%.120s\", expected one that ends in .safetensors", index_path, name);
}

static bool has_file(const SafetensorsReader *reader, const char *path) {
    for (int i = 0; i < reader->num_files; i++) {
        if (strcmp(reader->files[i].path, path) == 0) return true;
    }
    return false;
}

static int add_indexed_file(SafetensorsReader *reader, const char *dir, const char *name, const char *index_path,
                            Error *err) {
    int code = check_file_name(name, index_path, err);
    if (code != 0) return code;
    char path[PATH_MAX];
    code = path_join(path, dir, name, err);
    if (code != 0) return code;
    bool known = has_file(reader, path);
    if (!known && access(path, F_OK) != 0)
        code = fail_input(err,
                          "%s: names %.120s, which is not there, expected all files of the model: was it copied whole?",
                          index_path, name);
    else if (!known && reader->num_files == SAFETENSORS_MAX_FILES)
        code = fail_input(err, "%s: more than %d files", index_path, SAFETENSORS_MAX_FILES);
    else if (!known)
        code = add_file(reader, path, err);
    return code;
}

static int compare_items(const void *a, const void *b) {
    return strcmp((*(const cJSON *const *)a)->string, (*(const cJSON *const *)b)->string);
}

// Two sorted lists of names, the index's and the files', must be one, and agree on the file of each.
static int compare_with_index(const SafetensorsReader *reader, const cJSON **items, int count, const char *path,
                              Error *err) {
    for (int i = 0, j = 0; i < count || j < reader->num_entries; i++, j++) {
        const Entry *entry = j < reader->num_entries ? &reader->entries[j] : NULL;
        int order = i == count ? 1 : entry == NULL ? -1 : strcmp(items[i]->string, entry->tensor.name);
        if (order < 0) {
            return fail_input(err, "%s: tensor \"%.120s\" is missing in %s", path, items[i]->string,
                              items[i]->valuestring);
        }
        if (order > 0) {
            return fail_input(err, "%s: tensor \"%.120s\" of %s is not in the index", path, entry->tensor.name,
                              entry_path(reader, entry));
        }
        const char *slash = strrchr(entry_path(reader, entry), '/');
        if (strcmp(slash + 1, items[i]->valuestring) != 0) {
            return fail_input(err, "%s: tensor \"%.120s\" is in %s, expected in %s", path, entry->tensor.name,
                              slash + 1, items[i]->valuestring);
        }
    }
    return 0;
}

static int check_index(const SafetensorsReader *reader, const cJSON *map, const char *path, Error *err) {
    int count = cJSON_GetArraySize(map), filled = 0;
    const cJSON **items = malloc(((size_t)count + 1) * sizeof *items), *item = NULL;
    if (items == NULL) return fail_fault(err, "%s: no memory", path);
    cJSON_ArrayForEach(item, map) items[filled++] = item;
    qsort(items, (size_t)count, sizeof *items, compare_items);
    int code = compare_with_index(reader, items, count, path, err);
    free(items);
    return code;
}

static int add_index(SafetensorsReader *reader, const char *dir, const cJSON *index, const char *path, Error *err) {
    const cJSON *map = json_get(index, "weight_map"), *item = NULL;
    if (!cJSON_IsObject(map) || map->child == NULL)
        return fail_input(err, "%s: weight_map is not an object with tensors", path);
    int code = json_check_unique(index, path, "", err);
    if (code == 0) code = json_check_unique(map, path, "weight_map: ", err);
    cJSON_ArrayForEach(item, map) {
        if (code != 0) return code;
        if (!cJSON_IsString(item))
            return fail_input(err, "%s: weight_map: file of \"%.120s\" is not text", path, item->string);
        code = add_indexed_file(reader, dir, item->valuestring, path, err);
    }
    if (code == 0) code = sort_entries(reader, err);
    return code != 0 ? code : check_index(reader, map, path, err);
}

static int open_index(SafetensorsReader *reader, const char *dir, const char *path, Error *err) {
    cJSON *index = NULL;
    int code = json_read_object(&index, path, SAFETENSORS_MAX_HEADER, err);
    if (code != 0) return code;
    code = add_index(reader, dir, index, path, err);
    cJSON_Delete(index);
    return code;
}

static int open_single(SafetensorsReader *reader, const char *path, Error *err) {
    int code = add_file(reader, path, err);
    return code != 0 ? code : sort_entries(reader, err);
}

static int report_no_model(const char *dir, Error *err) {
    int code = explain_no_model(dir, err);
    return code ? code : fail_input(err, "%s: no model.safetensors and no model.safetensors.index.json", dir);
}

static int open_folder(SafetensorsReader *reader, const char *dir, Error *err) {
    char single[PATH_MAX], index[PATH_MAX];
    int code = path_join(single, dir, "model.safetensors", err);
    if (code == 0) code = path_join(index, dir, "model.safetensors.index.json", err);
    if (code != 0) return code;
    if (access(single, F_OK) == 0) return open_single(reader, single, err);
    return access(index, F_OK) == 0 ? open_index(reader, dir, index, err) : report_no_model(dir, err);
}

static int open_any(SafetensorsReader *reader, const char *path, Error *err) {
    if (is_pickle_name(path)) return refuse_pickle(path, path, err);
    return text_ends_with(path, ".safetensors") ? open_single(reader, path, err) : open_folder(reader, path, err);
}

static int open_with(SafetensorsReader **out, const char *path, Error *err,
                     int (*how)(SafetensorsReader *, const char *, Error *)) {
    SafetensorsReader *reader = calloc(1, sizeof *reader);
    if (reader == NULL) return fail_fault(err, "%s: no memory", path);
    int code = how(reader, path, err);
    if (code != 0)
        safetensors_close(reader);
    else
        *out = reader;
    return code;
}

int safetensors_open(SafetensorsReader **out, const char *path, Error *err) {
    return open_with(out, path, err, is_pickle_name(path) ? open_any : open_single);
}

int safetensors_open_model(SafetensorsReader **out, const char *path, Error *err) {
    return open_with(out, path, err, open_any);
}

void safetensors_close(SafetensorsReader *reader) {
    if (reader == NULL) return;
    for (int i = 0; i < reader->num_files; i++) {
        if (reader->files[i].map) munmap(reader->files[i].map, reader->files[i].size);
        if (reader->files[i].fd >= 0) close(reader->files[i].fd);
        cJSON_Delete(reader->files[i].header);
        free(reader->files[i].path);
    }
    free(reader->files);
    free(reader->entries);
    free(reader);
}

int safetensors_count(const SafetensorsReader *reader) { return reader->num_entries; }

const SafetensorsTensor *safetensors_at(const SafetensorsReader *reader, int index) {
    assert(index >= 0 && index < reader->num_entries);
    return &reader->entries[index].tensor;
}

const SafetensorsTensor *safetensors_find(const SafetensorsReader *reader, const char *name) {
    if (reader->num_entries == 0) return NULL;
    Entry wanted = {.tensor.name = name};
    const Entry *found = bsearch(&wanted, reader->entries, (size_t)reader->num_entries, sizeof wanted, compare_entries);
    return found == NULL ? NULL : &found->tensor;
}

void safetensors_drop(SafetensorsReader *reader, int index) {
    Entry *entry = &reader->entries[index];
    memmove(entry, entry + 1, (size_t)(reader->num_entries-- - index - 1) * sizeof *entry);
}

const char *safetensors_path(const SafetensorsReader *reader, const SafetensorsTensor *tensor) {
    return entry_path(reader, (const Entry *)tensor);
}

int safetensors_read(const SafetensorsReader *reader, const SafetensorsTensor *tensor, uint64_t first, size_t count,
                     void *out, Error *err) {
    const Entry *entry = (const Entry *)tensor;
    const File *file = &reader->files[entry->file];
    assert(first <= entry->end - entry->begin && count <= entry->end - entry->begin - first);
    return file_read_at(file->fd, out, count, file->data + entry->begin + first, file->path, err);
}

// ---- Mapping

enum { READ_AHEAD = 8 << 20 };

static int map_file(File *file, Error *err) {
    void *map = mmap(NULL, file->size, PROT_READ, MAP_SHARED, file->fd, 0);
    if (map == MAP_FAILED) return fail_fault(err, "%s: mmap: %s", file->path, strerror(errno));
    madvise(map, file->size, MADV_SEQUENTIAL);
    file->map = map;
    return 0;
}

// The pages that hold [begin, end) of the file, as far as it goes.
static void advise(const File *file, uint64_t begin, uint64_t end, int advice) {
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), first = begin / page * page;
    if (end > file->size) end = file->size;
    if (first < end) madvise(file->map + first, end - first, advice);
}

// Brings pages in. A page that the disk cannot give, or that the file has no more, would be a SIGBUS to whoever
// touches it; asked for like this it is an error. (Linux before 5.14 answers EINVAL: there the size is looked at.)
static int populate(const File *file, uint64_t begin, uint64_t end, Error *err) {
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), first = begin / page * page;
    struct stat status;
    if (fstat(file->fd, &status) != 0 || (uint64_t)status.st_size < end)
        return fail_fault(err, "%s: file is shorter than byte %llu: did it shrink?", file->path,
                          (unsigned long long)end);
#ifdef MADV_POPULATE_READ
    if (madvise(file->map + first, end - first, MADV_POPULATE_READ) != 0 && errno != EINVAL)
        return fail_fault(err, "%s: read at byte %llu: %s", file->path, (unsigned long long)begin,
                          strerror(errno == EFAULT ? EIO : errno));
#else
    (void)first;
#endif
    return 0;
}

int safetensors_view(SafetensorsReader *reader, const SafetensorsTensor *tensor, uint64_t first, size_t count,
                     const void **data, Error *err) {
    const Entry *entry = (const Entry *)tensor;
    File *file = &reader->files[entry->file];
    assert(first <= entry->end - entry->begin && count <= entry->end - entry->begin - first);
    uint64_t begin = file->data + entry->begin + first;
    int code = file->map == NULL ? map_file(file, err) : 0;
    if (code == 0 && count > 0) code = populate(file, begin, begin + count, err);
    if (code != 0) return code;
    // read while this piece is worked on
    advise(file, begin + count, begin + count + READ_AHEAD, MADV_WILLNEED);
    *data = file->map + begin;
    return 0;
}

void safetensors_release(SafetensorsReader *reader, const SafetensorsTensor *tensor, uint64_t first, size_t count) {
    const Entry *entry = (const Entry *)tensor;
    const File *file = &reader->files[entry->file];
    uint64_t begin = file->data + entry->begin + first;
    if (file->map != NULL) advise(file, begin, begin + count, MADV_DONTNEED);
}
