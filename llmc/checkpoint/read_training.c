// Master weights and moments out of a checkpoint of any number of parts, of which a rank takes what its shard owns.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/match.h"
#include "base/path.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/convert.h"
#include "checkpoint/parts.h"
#include "checkpoint/read.h"

enum { PIECE = 1 << 18 }; // elements that are in memory at a time; few enough to stay in the cache

// A tensor of a file: elements [first, end) of an array of a parameter.
typedef struct {
    int array, index;
    uint64_t first, end;
    int file;
    const SafetensorsTensor *tensor;
} Found;

typedef struct TrainingParts {
    const char *folder;
    SafetensorsReader **readers;
    int files;
    Found *found;
    int count, room;
} Parts;

// ---- files

// N of ".../optimizer-0000i-of-0000N.safetensors"; 0: none.
static int parts_of_name(const char *path) {
    const char *name = strrchr(path, '/'), *of = name ? strstr(name, "-of-") : NULL;
    return of ? atoi(of + strlen("-of-")) : 0; // NOLINT(cert-err34-c): a name that lies is missed by open_file
}

static int agree_on_parts(int *parts, char **paths, size_t count, Error *err) {
    for (size_t i = 0; i < count; i++) {
        const int found = parts_of_name(paths[i]);
        if (*parts && found != *parts)
            return fail_input(err, "%s: a part of %d, beside %s of %d", paths[i], found, strrchr(paths[0], '/') + 1,
                              *parts);
        *parts = found;
    }
    return 0;
}

// *parts = how many files the checkpoint has by the names of those that are there.
static int count_files(int *parts, const char *folder, Error *err) {
    char pattern[PATH_MAX];
    FileList found;
    *parts = 0;
    int code = path_join(pattern, folder, "trainer/optimizer-*-of-*.safetensors", err);
    if (code) return code;
    if (file_match(&found, pattern, "part", NULL) == 0) code = agree_on_parts(parts, found.paths, found.count, err);
    file_list_free(&found);
    if (*parts < 2) *parts = 1;
    if (!code && *parts > SAFETENSORS_MAX_FILES)
        return fail_input(err, "%s: %d parts, expected at most %d", folder, *parts, SAFETENSORS_MAX_FILES);
    return code;
}

static int open_file(Parts *p, const char *folder, int part, int parts, Error *err) {
    char name[PART_NAME_SIZE], path[PATH_MAX];
    part_optimizer_file(name, part, parts);
    int code = path_join(path, folder, name, err);
    if (!code && parts > 1 && access(path, F_OK) != 0 && errno == ENOENT)
        return fail_input(err, "%s: missing, expected the %d parts of the optimizer's state", path, parts);
    if (!code) code = safetensors_open(&p->readers[part], path, err);
    if (!code) p->files = part + 1;
    return code;
}

static int check_metadata(const Parts *p, int part, const char *key, const char *expected, Error *err) {
    const char *found = safetensors_metadata(p->readers[part], key);
    char name[PART_NAME_SIZE];
    if (found && expected && strcmp(found, expected) == 0) return 0;
    part_optimizer_file(name, part, p->files);
    return fail_input(err, "%s/%s: __metadata__ says %s %.40s, expected %.40s", p->folder, name, key,
                      found ? found : "nothing", expected ? expected : "a number");
}

// Of several parts each is the one that its name says, and all are of one step.
static int check_parts(const Parts *p, Error *err) {
    char parts[16];
    int code = 0;
    snprintf(parts, sizeof parts, "%d", p->files);
    for (int part = 0; p->files > 1 && !code && part < p->files; part++) {
        char number[16];
        snprintf(number, sizeof number, "%d", part + 1);
        code = check_metadata(p, part, PART_NUMBER, number, err);
        if (!code) code = check_metadata(p, part, PART_COUNT, parts, err);
        if (!code) code = check_metadata(p, part, PART_STEP, safetensors_metadata(p->readers[0], PART_STEP), err);
    }
    return code;
}

static int open_files(Parts *p, const char *folder, Error *err) {
    int parts = 0;
    int code = count_files(&parts, folder, err);
    if (code) return code;
    p->readers = calloc((size_t)parts, sizeof(SafetensorsReader *));
    if (!p->readers) return fail_fault(err, "%s: no memory to read %d files", folder, parts);
    for (int part = 0; !code && part < parts; part++) code = open_file(p, folder, part, parts, err);
    return code ? code : check_parts(p, err);
}

static void close_files(Parts *p) {
    for (int i = 0; i < p->files; i++) safetensors_close(p->readers[i]);
    free(p->readers);
    free(p->found);
}

// ---- what is in them

static int find_array(const char *base, const char **rest) {
    for (int array = 0; array < TRAINING_ARRAYS; array++) {
        const size_t length = strlen(training_names[array]);
        if (strncmp(base, training_names[array], length) != 0 || base[length] != '.') continue;
        *rest = base + length + 1;
        return array;
    }
    return -1;
}

static int check_piece(const SafetensorsReader *reader, const SafetensorsTensor *tensor, const ParameterTensor *t,
                       bool whole, const Found *f, Error *err) {
    const char *path = safetensors_path(reader, tensor);
    const int64_t rows = tensor->dims == 2 ? tensor->shape[0] : 1;
    const int64_t cols = tensor->dims == 2 ? tensor->shape[1] : tensor->shape[0];
    if (tensor->type != SAFETENSORS_F32)
        return fail_input(err, "%s: tensor %s: dtype is %s, expected F32", path, tensor->name,
                          safetensors_type_name(tensor->type));
    if (whole && (tensor->dims != t->dims || rows != t->rows || cols != t->cols))
        return fail_input(err, "%s: tensor %s: expected %d dimensions, %d x %d, found %d, %lld x %lld", path,
                          tensor->name, t->dims, t->rows, t->cols, tensor->dims, (long long)rows, (long long)cols);
    if (whole) return 0;
    if (f->end > parameter_elements(t))
        return fail_input(err, "%s: tensor %s: the parameter has %zu elements", path, tensor->name,
                          parameter_elements(t));
    if (tensor->dims != 1 || (uint64_t)tensor->shape[0] != f->end - f->first)
        return fail_input(err, "%s: tensor %s: expected 1 dimension of %llu, found %d, %lld x %lld", path, tensor->name,
                          (unsigned long long)(f->end - f->first), tensor->dims, (long long)rows, (long long)cols);
    return 0;
}

static int add(Parts *p, Found found, Error *err) {
    if (p->count == p->room) {
        const int room = p->room ? 2 * p->room : 256;
        Found *grown = realloc(p->found, (size_t)room * sizeof *grown);
        if (!grown) return fail_fault(err, "no memory for the list of a checkpoint's tensors");
        p->found = grown;
        p->room = room;
    }
    p->found[p->count++] = found;
    return 0;
}

static int take(Parts *p, int file, const SafetensorsTensor *tensor, const ParameterTable *table, Error *err) {
    const SafetensorsReader *reader = p->readers[file];
    char base[PIECE_NAME_SIZE];
    const char *name = "";
    bool whole;
    Found f = {.file = file, .tensor = tensor};
    if (!piece_parse(tensor->name, base, &whole, &f.first, &f.end))
        return fail_input(err, "%s: tensor %.150s: expected elements as [first:end]", safetensors_path(reader, tensor),
                          tensor->name);
    f.array = find_array(base, &name);
    const ParameterTensor *t = f.array < 0 ? NULL : parameter_table_find(table, name);
    if (!t)
        return fail_input(err, "%s: tensor %.150s: the model has none of that name", safetensors_path(reader, tensor),
                          tensor->name);
    if (!t->trained)
        return fail_input(err, "%s: tensor %.150s: the run trains it no more (--train-only)",
                          safetensors_path(reader, tensor), tensor->name);
    f.index = (int)(t - table->tensors);
    if (whole) f.end = parameter_elements(t);
    int code = check_piece(reader, tensor, t, whole, &f, err);
    return code ? code : add(p, f, err);
}

static int compare(const void *a, const void *b) {
    const Found *x = a, *y = b;
    if (x->array != y->array) return x->array < y->array ? -1 : 1;
    if (x->index != y->index) return x->index < y->index ? -1 : 1;
    return x->first < y->first ? -1 : x->first > y->first;
}

// The pieces of an array of a parameter, [*at ...) of the sorted ones, must follow each other without gap from its first
// to its last element.
static int check_coverage(const Parts *p, int *at, int array, const ParameterTensor *t, int index, const char *folder,
                          Error *err) {
    uint64_t next = 0;
    for (; *at < p->count && p->found[*at].array == array && p->found[*at].index == index; ++*at) {
        const Found *f = &p->found[*at];
        if (f->first < next)
            return fail_input(err, "%s: tensor %s: its elements from %llu on stand in another piece too",
                              safetensors_path(p->readers[f->file], f->tensor), f->tensor->name,
                              (unsigned long long)f->first);
        if (f->first > next) break;
        next = f->end;
    }
    if (next == parameter_elements(t)) return 0;
    return fail_input(err, "%s/trainer/optimizer%s.safetensors: tensor %s.%s is missing%s%.0llu", folder,
                      p->files == 1 ? "" : "-*", training_names[array], t->name, next ? " from its element " : "",
                      (unsigned long long)next);
}

static bool has_average(const Parts *p) { return p->count && p->found[p->count - 1].array == TRAINING_AVERAGE; }

static int list_tensors(Parts *p, const ParameterTable *table, const char *folder, Error *err) {
    int code = 0, at = 0;
    for (int file = 0; file < p->files; file++)
        for (int i = 0; !code && i < safetensors_count(p->readers[file]); i++)
            code = take(p, file, safetensors_at(p->readers[file], i), table, err);
    if (code) return code;
    if (p->count) qsort(p->found, (size_t)p->count, sizeof *p->found, compare);
    const int arrays = has_average(p) ? TRAINING_ARRAYS : TRAINING_AVERAGE;
    for (int array = 0; array < arrays; array++)
        for (int i = 0; !code && i < table->count; i++)
            if (table->tensors[i].trained) code = check_coverage(p, &at, array, &table->tensors[i], i, folder, err);
    return code;
}

// ---- their values

// Elements [first, first + count) of the parameter, which lie in f.
static int read_piece(SafetensorsReader *reader, const Found *f, Llama3 *m, uint64_t first, size_t count,
                      size_t *not_finite, Error *err) {
    const uint64_t at = (first - f->first) * sizeof(float);
    const void *raw = NULL;
    int code = safetensors_view(reader, f->tensor, at, count * sizeof(float), &raw, err);
    if (code) return code;
    *not_finite += convert_not_finite(raw, count);
    llama3_set_training_piece(m, (TrainingArray)f->array, f->index, (size_t)first, count, raw);
    safetensors_release(reader, f->tensor, at, count * sizeof(float));
    return 0;
}

static int read_found(const Parts *p, const Found *f, Llama3 *m, Error *err) {
    const ParameterPiece own = parameter_piece(llama3_parameters(m), f->index, llama3_shard(m));
    const uint64_t first = own.first > f->first ? own.first : f->first;
    const uint64_t end = own.first + own.count < f->end ? own.first + own.count : f->end;
    size_t not_finite = 0;
    int code = 0;
    for (uint64_t at = first; !code && at < end; at += PIECE)
        code =
            read_piece(p->readers[f->file], f, m, at, end - at < PIECE ? (size_t)(end - at) : PIECE, &not_finite, err);
    if (code || !not_finite) return code;
    return read_fail_not_finite(p->readers[f->file], f->tensor, not_finite, (size_t)(end - first), err);
}

// A mean of samples must be there.
static int check_average(const Parts *p, const Llama3 *m, Error *err) {
    const ParameterTable *table = llama3_parameters(m);
    cJSON *state = NULL;
    int first = 0;
    if (has_average(p) || llama3_training_arrays(m) <= TRAINING_AVERAGE) return 0;
    int code = checkpoint_read_state(p->folder, &state, err);
    if (code) return code;
    const cJSON *samples = json_get(state, "average_samples");
    const double count = cJSON_IsNumber(samples) ? samples->valuedouble : 0;
    cJSON_Delete(state);
    if (count == 0) return 0;
    while (first < table->count - 1 && !table->tensors[first].trained) first++;
    return fail_input(
        err, "%s/trainer/optimizer%s.safetensors: tensor %s.%s is missing, state.json tells of %g samples", p->folder,
        p->files == 1 ? "" : "-*", training_names[TRAINING_AVERAGE], table->tensors[first].name, count);
}

int checkpoint_read_training(const char *folder, Llama3 *m, Error *err) {
    Parts parts = {.folder = folder};
    int code = read_parameters(folder, m, err);
    if (!code) code = open_files(&parts, folder, err);
    if (!code) code = list_tensors(&parts, llama3_parameters(m), folder, err);
    if (!code) code = check_average(&parts, m, err);
    for (int i = 0; !code && i < parts.count; i++)
        if (parts.found[i].array < llama3_training_arrays(m)) code = read_found(&parts, &parts.found[i], m, err);
    close_files(&parts);
    return code;
}

// ---- the mean alone

int average_parts_open(TrainingParts **out, const char *folder, const ParameterTable *table, Error *err) {
    Parts *p = calloc(1, sizeof *p);
    if (!p) return fail_fault(err, "%s: no memory to read the mean", folder);
    p->folder = folder;
    int code = open_files(p, folder, err);
    if (!code) code = list_tensors(p, table, folder, err);
    if (!code && !has_average(p)) code = fail_fault(err, "%s: has no mean over steps", folder);
    if (code)
        average_parts_close(p);
    else
        *out = p;
    return code;
}

int average_parts_read(const TrainingParts *p, int index, size_t first, size_t count, float *values, Error *err) {
    const uint64_t end = first + count;
    int code = 0;
    for (int i = 0; !code && i < p->count; i++) {
        const Found *f = &p->found[i];
        if (f->array != TRAINING_AVERAGE || f->index != index || f->end <= first || f->first >= end) continue;
        const uint64_t from = f->first > first ? f->first : first, to = f->end < end ? f->end : end;
        code = safetensors_read(p->readers[f->file], f->tensor, (from - f->first) * sizeof(float),
                                (size_t)(to - from) * sizeof(float), values + (from - first), err);
    }
    return code;
}

void average_parts_close(TrainingParts *p) {
    if (!p) return;
    close_files(p);
    free(p);
}
