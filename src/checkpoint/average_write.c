// The writing half of average.h.
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/version.h"
#include "checkpoint/average_internal.h"
#include "checkpoint/convert.h"
#include "checkpoint/read.h"
#include "checkpoint/store.h"

enum {
    PIECE = 1 << 18,      // elements that are averaged at a time
    SPARE_BYTES = 4 << 20 // for headers and texts
};

typedef struct {
    Average *a;
    AverageReport report;
    void *context;
    uint64_t done;         // bytes read
    char folder[PATH_MAX]; // OUTPUT.average.tmp
    char parent[PATH_MAX], name[NAME_MAX + 1];
    int fd; // of the folder, which is locked: nobody else writes into it; -1: not ours
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

static int average_tensor(Output *o, SafetensorsWriter *writer, int t, Error *err) {
    const SafetensorsTensor *like = safetensors_at(o->a->inputs[0].reader, t);
    const uint64_t all = safetensors_tensor_bytes(like) / safetensors_type_size(like->type);
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

// ---- files of tensors: those of the first input

static const char *file_of(const Average *a, int t) {
    const char *path = safetensors_path(a->inputs[0].reader, safetensors_at(a->inputs[0].reader, t));
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static bool begins_file(const Average *a, int t) {
    for (int before = 0; before < t; before++)
        if (strcmp(file_of(a, before), file_of(a, t)) == 0) return false;
    return true;
}

static int write_tensors(Output *o, SafetensorsWriter *writer, const char *file, Error *err) {
    const int count = average_num_tensors(o->a);
    for (int t = 0; t < count; t++) {
        if (strcmp(file_of(o->a, t), file) != 0) continue;
        int code = average_tensor(o, writer, t, err);
        if (code) return code;
    }
    return 0;
}

static int write_file(Output *o, const char *file, Error *err) {
    char path[PATH_MAX];
    const int count = average_num_tensors(o->a);
    SafetensorsWriter *writer = NULL;
    SafetensorsTensor *tensors = calloc((size_t)count, sizeof *tensors);
    if (!tensors) return fail_fault(err, "%s: no memory for the header of %s", o->folder, file);
    int declared = 0;
    for (int t = 0; t < count; t++) {
        if (strcmp(file_of(o->a, t), file) != 0) continue;
        tensors[declared] = *safetensors_at(o->a->inputs[0].reader, t);
        tensors[declared].type = average_out_type(o->a, &tensors[declared]);
        declared++;
    }
    int code = store_path(path, o->folder, file, err);
    if (!code) code = safetensors_create_plain(&writer, path, tensors, declared, NULL, err);
    free(tensors);
    if (code) return code;
    code = write_tensors(o, writer, file, err);
    if (!code) return safetensors_finish(writer, err);
    safetensors_discard(writer);
    return code;
}

static int write_files(Output *o, Error *err) {
    int code = 0;
    for (int t = 0; !code && t < average_num_tensors(o->a); t++)
        if (begins_file(o->a, t)) code = write_file(o, file_of(o->a, t), err);
    return code;
}

// ---- texts

// json is freed.
static int write_json(const Output *o, const char *name, cJSON *json, Error *err) {
    char path[PATH_MAX], *text = cJSON_Print(json);
    cJSON_Delete(json);
    int code = text ? store_path(path, o->folder, name, err) : fail_fault(err, "%s: no memory for %s", o->folder, name);
    if (!code) code = file_write_whole(path, text, strlen(text), err);
    cJSON_free(text);
    return code;
}

static int write_index(const Output *o, Error *err) {
    const Average *a = o->a;
    bool single = true;
    for (int t = 0; t < average_num_tensors(a); t++) single &= strcmp(file_of(a, t), "model.safetensors") == 0;
    if (single || a->adapter) return 0;
    cJSON *root = cJSON_CreateObject(), *metadata = cJSON_AddObjectToObject(root, "metadata");
    cJSON_AddNumberToObject(metadata, "total_size", (double)a->write_bytes);
    cJSON *map = cJSON_AddObjectToObject(root, "weight_map");
    for (int t = 0; t < average_num_tensors(a); t++)
        cJSON_AddStringToObject(map, safetensors_at(a->inputs[0].reader, t)->name, file_of(a, t));
    return write_json(o, "model.safetensors.index.json", root, err);
}

static int write_mark(const Output *o, Error *err) {
    static const char *const types[] = {[AVERAGE_SAME] = "same", [AVERAGE_FP32] = "fp32", [AVERAGE_BF16] = "bf16"};
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "program_version", LLMC_VERSION);
    cJSON_AddStringToObject(root, "dtype", types[o->a->spec->type]);
    cJSON *list = cJSON_AddArrayToObject(root, "checkpoints");
    for (int i = 0; i < o->a->spec->count; i++) {
        cJSON *item = cJSON_CreateObject();
        cJSON_AddStringToObject(item, "folder", o->a->inputs[i].folder);
        cJSON_AddNumberToObject(item, "weight", o->a->inputs[i].weight);
        cJSON_AddItemToArray(list, item);
    }
    return write_json(o, AVERAGE_MARK, root, err);
}

static int copy_file(const Output *o, const char *name, Error *err) {
    char from[PATH_MAX], to[PATH_MAX];
    if (!average_has(o->a->inputs[0].folder, name)) return 0;
    int code = store_path(from, o->a->inputs[0].folder, name, err);
    if (!code) code = store_path(to, o->folder, name, err);
    return code ? code : file_copy(from, to, err);
}

static void set_text(cJSON *json, const char *name, const char *text) {
    cJSON_DeleteItemFromObjectCaseSensitive(json, name);
    cJSON_AddStringToObject(json, name, text);
}

// The first's, and under both names that transformers has had for it the type that the weights have now.
static int write_config(const Output *o, Error *err) {
    char path[PATH_MAX];
    cJSON *json = NULL;
    const char *type = o->a->spec->type == AVERAGE_FP32 ? "float32" : "bfloat16";
    if (o->a->spec->type == AVERAGE_SAME || o->a->adapter) return copy_file(o, "config.json", err);
    int code = store_path(path, o->a->inputs[0].folder, "config.json", err);
    if (!code) code = json_read_object(&json, path, AVERAGE_CONFIG_BYTES, err);
    if (code) return code;
    set_text(json, "torch_dtype", type);
    set_text(json, "dtype", type);
    return write_json(o, "config.json", json, err);
}

static int write_texts(const Output *o, Error *err) {
    static const char *const names[] = {"adapter_config.json",   "generation_config.json",  "tokenizer.json",
                                        "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
                                        "chat_template.jinja",   "tokenizer.model"};
    int code = write_config(o, err);
    for (size_t i = 0; !code && i < sizeof names / sizeof *names; i++)
        if (i || o->a->adapter) code = copy_file(o, names[i], err);
    return code ? code : write_index(o, err);
}

// ---- the folder

// Splits "a/b/" into "a" and "b".
static int name_folder(Output *o, Error *err) {
    char copy[PATH_MAX];
    const char *output = o->a->spec->output;
    int length = snprintf(copy, sizeof copy, "%s", output);
    if (length >= (int)sizeof copy || snprintf(o->parent, sizeof o->parent, "%s", dirname(copy)) >= PATH_MAX)
        return fail_input(err, "%.200s...: expected a path of at most %d bytes", output, PATH_MAX - 1);
    snprintf(copy, sizeof copy, "%s", output);
    const char *name = basename(copy);
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strcmp(name, "/") == 0)
        return fail_input(err, "%s: expected the name of a folder that can be made", output);
    if (snprintf(o->name, sizeof o->name, "%s", name) >= (int)sizeof o->name)
        return fail_input(err, "%.200s...: expected a name of at most %d bytes", output, NAME_MAX);
    if (snprintf(o->folder, sizeof o->folder, "%s/%s.average.tmp", o->parent, name) < PATH_MAX) return 0;
    return fail_input(err, "%.200s...: expected a path of at most %d bytes", output, PATH_MAX - 1);
}

// Is the open folder still the one of that name? Its holder may have removed it meanwhile.
static bool is_named(const Output *o) {
    struct stat open_folder, named;
    return fstat(o->fd, &open_folder) == 0 && lstat(o->folder, &named) == 0 && open_folder.st_ino == named.st_ino &&
           open_folder.st_dev == named.st_dev;
}

static void let_go(Output *o) {
    close(o->fd);
    o->fd = -1;
}

// Takes the folder's lock, which the system gives back when its holder ends, however it ends.
static int lock_folder(Output *o, Error *err) {
    o->fd = open(o->folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (o->fd < 0) return errno == ENOENT ? 0 : file_fail_open(err, o->folder, errno); // gone: tried again
    if (flock(o->fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return 0;
    let_go(o);
    return fail_input(err, "%s: another average_llama3 writes it, expected none", o->folder);
}

// A new one, locked. By its name the folder is ours: one that is there and not locked was left by a killed program.
static int make_folder(Output *o, Error *err) {
    for (;;) {
        const bool made = mkdir(o->folder, 0777) == 0;
        if (!made && errno != EEXIST) return file_fail_open(err, o->folder, errno);
        int code = lock_folder(o, err);
        if (code && made) rmdir(o->folder);
        if (code) return code;
        if (o->fd < 0 || !is_named(o)) continue;
        if (made) return 0;
        folder_remove(o->folder);
        if (is_named(o)) code = fail_fault(err, "%s: cannot be removed", o->folder);
        let_go(o);
        if (code) return code;
    }
}

static int check_space(const Output *o, Error *err) {
    struct statvfs disk;
    if (statvfs(o->parent, &disk) != 0) return file_fail_open(err, o->parent, errno);
    const uint64_t needed = o->a->write_bytes + SPARE_BYTES, free_bytes = (uint64_t)disk.f_bavail * disk.f_frsize;
    if (free_bytes >= needed) return 0;
    return fail_fault(err, "%s: no space for the average: %.1f MiB needed, %.1f MiB free", o->parent,
                      (double)needed / 1048576.0, (double)free_bytes / 1048576.0);
}

static int fill_folder(Output *o, Error *err) {
    int code = write_mark(o, err);
    if (!code) code = write_texts(o, err);
    if (!code) code = write_files(o, err);
    if (!code) code = folder_sync(o->folder, err);
    return code ? code : store_take_name(o->parent, o->folder, o->name, err);
}

int average_write(Average *a, AverageReport report, void *context, Error *err) {
    Output *o = malloc(sizeof *o);
    if (!o) return fail_fault(err, "%s: no memory", a->spec->output);
    o->a = a;
    o->report = report;
    o->context = context;
    o->done = 0;
    o->fd = -1;
    int code = name_folder(o, err);
    if (!code) code = check_space(o, err);
    if (!code) code = make_folder(o, err);
    if (!code) {
        code = fill_folder(o, err);
        if (code) folder_remove(o->folder);
        let_go(o);
    }
    free(o);
    return code;
}
