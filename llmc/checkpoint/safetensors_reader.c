// The reading half of safetensors.h: a set of files as one.
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
#include "checkpoint/safetensors_file.h"
#include "model/no_model.h"

struct SafetensorsReader {
    SafetensorsFile *files;
    int num_files;
    SafetensorsEntry *entries;
    int num_entries;
};

static const char *entry_path(const SafetensorsReader *reader, const SafetensorsEntry *entry) {
    return reader->files[entry->file].path;
}

const char *safetensors_metadata(const SafetensorsReader *reader, const char *key) {
    const cJSON *metadata = json_get(reader->files[0].header, "__metadata__");
    const cJSON *value = metadata ? json_get(metadata, key) : NULL;
    return value ? value->valuestring : NULL; // text, as was checked
}

// The reader takes the file's tensors in.
static int add_entries(SafetensorsReader *reader, int index, Error *err) {
    const SafetensorsFile *file = &reader->files[index];
    size_t room = (size_t)reader->num_entries + (size_t)cJSON_GetArraySize(file->header) + 1;
    SafetensorsEntry *entries = realloc(reader->entries, room * sizeof *entries);
    if (entries == NULL) return fail_fault(err, "%s: no memory for its tensors", file->path);
    reader->entries = entries;

    int count = 0;
    SafetensorsEntry *fresh = entries + reader->num_entries;
    int code = safetensors_file_entries(file, index, fresh, &count, err);
    if (code == 0) reader->num_entries += count;
    return code;
}

static int add_file(SafetensorsReader *reader, const char *path, Error *err) {
    SafetensorsFile *files = realloc(reader->files, ((size_t)reader->num_files + 1) * sizeof *files);
    if (files == NULL) return fail_fault(err, "%s: no memory", path);
    reader->files = files;
    int code = safetensors_file_open(&files[reader->num_files++], path, err);
    if (code == 0) code = add_entries(reader, reader->num_files - 1, err);
    return code;
}

static int compare_entries(const void *a, const void *b) {
    return strcmp(((const SafetensorsEntry *)a)->tensor.name, ((const SafetensorsEntry *)b)->tensor.name);
}

static int sort_entries(SafetensorsReader *reader, Error *err) {
    SafetensorsEntry *entries = reader->entries;
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
        const SafetensorsEntry *entry = j < reader->num_entries ? &reader->entries[j] : NULL;
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
    for (int i = 0; i < reader->num_files; i++) safetensors_file_close(&reader->files[i]);
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
    SafetensorsEntry wanted = {.tensor.name = name};
    const SafetensorsEntry *found =
        bsearch(&wanted, reader->entries, (size_t)reader->num_entries, sizeof wanted, compare_entries);
    return found == NULL ? NULL : &found->tensor;
}

void safetensors_drop(SafetensorsReader *reader, int index) {
    SafetensorsEntry *entry = &reader->entries[index];
    memmove(entry, entry + 1, (size_t)(reader->num_entries-- - index - 1) * sizeof *entry);
}

const char *safetensors_path(const SafetensorsReader *reader, const SafetensorsTensor *tensor) {
    return entry_path(reader, (const SafetensorsEntry *)tensor);
}

int safetensors_read(const SafetensorsReader *reader, const SafetensorsTensor *tensor, uint64_t first, size_t count,
                     void *out, Error *err) {
    const SafetensorsEntry *entry = (const SafetensorsEntry *)tensor;
    const SafetensorsFile *file = &reader->files[entry->file];
    assert(first <= entry->end - entry->begin && count <= entry->end - entry->begin - first);
    return file_read_at(file->fd, out, count, file->data + entry->begin + first, file->path, err);
}

// ---- Mapping

enum { READ_AHEAD = 8 << 20 };

static int map_file(SafetensorsFile *file, Error *err) {
    void *map = mmap(NULL, file->size, PROT_READ, MAP_SHARED, file->fd, 0);
    if (map == MAP_FAILED) return fail_fault(err, "%s: mmap: %s", file->path, strerror(errno));
    madvise(map, file->size, MADV_SEQUENTIAL);
    file->map = map;
    return 0;
}

// The pages that hold [begin, end) of the file, as far as it goes.
static void advise(const SafetensorsFile *file, uint64_t begin, uint64_t end, int advice) {
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), first = begin / page * page;
    if (end > file->size) end = file->size;
    if (first < end) madvise(file->map + first, end - first, advice);
}

// Brings pages in. A page that the disk cannot give, or that the file has no more, would be a SIGBUS when it
// is touched; madvise makes it an error. (Linux before 5.14 answers EINVAL: there the size is looked at.)
static int populate(const SafetensorsFile *file, uint64_t begin, uint64_t end, Error *err) {
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
    const SafetensorsEntry *entry = (const SafetensorsEntry *)tensor;
    SafetensorsFile *file = &reader->files[entry->file];
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
    const SafetensorsEntry *entry = (const SafetensorsEntry *)tensor;
    const SafetensorsFile *file = &reader->files[entry->file];
    uint64_t begin = file->data + entry->begin + first;
    if (file->map != NULL) advise(file, begin, begin + count, MADV_DONTNEED);
}
