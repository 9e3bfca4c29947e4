#include "checkpoint/model_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/new_file.h"
#include "base/path.h"
#include "checkpoint/store.h"

enum { SPARE_BYTES = 4 << 20 }; // for headers and texts

bool model_folder_has(const char *folder, const char *name) {
    char path[PATH_MAX];
    return path_join(path, folder, name, NULL) == 0 && access(path, F_OK) == 0;
}

// ---- types

static const char *const type_names[] = {[MODEL_SAME] = "same", [MODEL_FP32] = "fp32", [MODEL_BF16] = "bf16"};

const char *model_type_name(ModelType type) { return type_names[type]; }

SafetensorsType model_type_of(ModelType type, SafetensorsType input) {
    if (type == MODEL_SAME) return input;
    return type == MODEL_FP32 ? SAFETENSORS_F32 : SAFETENSORS_BF16;
}

// ---- tensors

void model_print_shape(char text[MODEL_SHAPE_TEXT], const SafetensorsTensor *tensor) {
    int length = snprintf(text, MODEL_SHAPE_TEXT, "[");
    for (int d = 0; d < tensor->dims; d++)
        length += snprintf(text + length, (size_t)(MODEL_SHAPE_TEXT - length), "%s%lld", d ? ", " : "",
                           (long long)tensor->shape[d]);
    snprintf(text + length, (size_t)(MODEL_SHAPE_TEXT - length), "]");
}

int model_open_adapter(SafetensorsReader **out, const char *folder, Error *err) {
    char path[PATH_MAX];
    const bool pickled =
        !model_folder_has(folder, "adapter_model.safetensors") && model_folder_has(folder, "adapter_model.bin");
    int code = path_join(path, folder, pickled ? "adapter_model.bin" : "adapter_model.safetensors", err);
    return code ? code : safetensors_open(out, path, err); // which refuses a pickle
}

// ---- names

// The output "a/b/" has the parent "a" and the name "b".
static int name_folder(ModelFolder *f, Error *err) {
    char copy[PATH_MAX];
    const char *output = f->output;
    int length = snprintf(copy, sizeof copy, "%s", output);
    if (length >= (int)sizeof copy || snprintf(f->parent, sizeof f->parent, "%s", dirname(copy)) >= PATH_MAX)
        return fail_input(err, "%.200s...: expected a path of at most %d bytes", output, PATH_MAX - 1);
    snprintf(copy, sizeof copy, "%s", output);
    const char *name = basename(copy);
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strcmp(name, "/") == 0)
        return fail_input(err, "%s: expected the name of a folder that can be made", output);
    if (snprintf(f->name, sizeof f->name, "%s", name) >= (int)sizeof f->name)
        return fail_input(err, "%.200s...: expected a name of at most %d bytes", output, NAME_MAX);
    if (snprintf(f->folder, sizeof f->folder, "%s/%s.%s.tmp", f->parent, name, f->maker->suffix) < PATH_MAX &&
        snprintf(f->aside, sizeof f->aside, "%s/%s.%s.old", f->parent, name, f->maker->suffix) < PATH_MAX)
        return 0;
    return fail_input(err, "%.200s...: expected a path of at most %d bytes", output, PATH_MAX - 1);
}

// ---- may it be made

// Is `inner` the folder `outer`, or within it? Both as realpath gives them.
static bool is_within(const char *inner, const char *outer) {
    const size_t length = strlen(outer);
    return strncmp(inner, outer, length) == 0 && (inner[length] == 0 || inner[length] == '/' || length == 1);
}

// what: what the folder is to the output.
static int check_beside_inputs(const ModelFolder *f, const char *folder, const char *what, const char *const *inputs,
                               int count, Error *err) {
    char input[PATH_MAX], real[PATH_MAX];
    if (!realpath(folder, real)) return errno == ENOENT ? 0 : file_fail_open(err, folder, errno);
    for (int i = 0; i < count; i++) {
        if (!realpath(inputs[i], input)) continue; // opening it tells
        if (is_within(input, real))
            return fail_input(err, "%s: the %s %s %s %s, expected another folder", folder, what,
                              strcmp(input, real) == 0 ? "is" : "contains", f->maker->input, inputs[i]);
    }
    return 0;
}

static int check_names(const ModelMaker *maker, const char *output, const char *const *inputs, int count, Error *err) {
    ModelFolder f = {.maker = maker, .output = output};
    int code = name_folder(&f, err);
    if (!code) code = check_beside_inputs(&f, output, "output", inputs, count, err);
    if (!code) code = check_beside_inputs(&f, f.folder, "output's temporary folder", inputs, count, err);
    return code ? code : check_beside_inputs(&f, f.aside, "output's temporary folder", inputs, count, err);
}

static bool is_empty(const char *folder) {
    int names = 0;
    DIR *open_folder = opendir(folder);
    while (open_folder && readdir(open_folder)) names++;
    if (open_folder) closedir(open_folder);
    return names == 2; // . and ..
}

int model_folder_check(const ModelMaker *maker, const char *output, const char *const *inputs, int count,
                       bool overwrite, Error *err) {
    struct stat status;
    int code = check_names(maker, output, inputs, count, err);
    if (code) return code;
    if (lstat(output, &status) != 0) return errno == ENOENT ? 0 : file_fail_open(err, output, errno);
    if (!S_ISDIR(status.st_mode))
        return fail_input(err, "%s: exists and is no folder, expected a folder, or nothing", output);
    if (is_empty(output)) return 0;
    if (!overwrite) return fail_input(err, "%s: exists, expected a folder that does not, or --overwrite", output);
    if (model_folder_has(output, maker->mark)) return 0;
    return fail_input(err, "%s: has no %s: expected a folder that %s made, as only that is overwritten", output,
                      maker->mark, maker->program);
}

// ---- the folder

// Is the open folder still the one of that name? Its holder may have removed it meanwhile.
static bool is_named(const ModelFolder *f) {
    struct stat open_folder, named;
    return fstat(f->fd, &open_folder) == 0 && lstat(f->folder, &named) == 0 && open_folder.st_ino == named.st_ino &&
           open_folder.st_dev == named.st_dev;
}

static void let_go(ModelFolder *f) {
    close(f->fd);
    f->fd = -1;
}

// Takes the folder's lock, which the system gives back when its holder ends, however it ends.
static int lock_folder(ModelFolder *f, Error *err) {
    f->fd = open(f->folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (f->fd < 0) return errno == ENOENT ? 0 : file_fail_open(err, f->folder, errno); // gone: tried again
    if (flock(f->fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return 0;
    let_go(f);
    return fail_input(err, "%s: another %s writes it, expected none", f->folder, f->maker->program);
}

// A new one, locked. By its name the folder is ours: one that is there and not locked was left by a killed program.
static int make_folder(ModelFolder *f, Error *err) {
    for (;;) {
        const bool made = mkdir(f->folder, 0777) == 0;
        if (!made && errno != EEXIST) return file_fail_open(err, f->folder, errno);
        int code = lock_folder(f, err);
        if (code && made) rmdir(f->folder);
        if (code) return code;
        if (f->fd < 0) continue;
        if (!is_named(f)) {
            let_go(f);
            continue;
        }
        if (made) return 0;
        folder_remove(f->folder);
        if (is_named(f)) code = fail_fault(err, "%s: cannot be removed", f->folder);
        let_go(f);
        if (code) return code;
    }
}

static int check_space(const ModelFolder *f, uint64_t bytes, Error *err) {
    struct statvfs disk;
    if (statvfs(f->parent, &disk) != 0) return file_fail_open(err, f->parent, errno);
    const uint64_t needed = bytes + SPARE_BYTES, free_bytes = (uint64_t)disk.f_bavail * disk.f_frsize;
    if (free_bytes >= needed) return 0;
    return fail_fault(err, "%s: no space for %s: %.1f MiB needed, %.1f MiB free", f->parent, f->maker->contents,
                      (double)needed / 1048576.0, (double)free_bytes / 1048576.0);
}

int model_folder_begin(ModelFolder *f, const ModelMaker *maker, const char *output, uint64_t bytes, Error *err) {
    f->maker = maker;
    f->output = output;
    f->fd = -1;
    int code = name_folder(f, err);
    if (!code) code = check_space(f, bytes, err);
    return code ? code : make_folder(f, err);
}

// What has the output's name may not be on the disk: everything is put back as it was.
static void take_back(const ModelFolder *f, const char *path) {
    if (access(f->folder, F_OK) == 0)
        store_exchange(f->folder, path, f->aside, NULL);
    else
        rename(path, f->folder);
}

static int give_name(const ModelFolder *f, Error *err) {
    char path[PATH_MAX];
    int code = path_join(path, f->parent, f->name, err);
    if (!code) code = store_exchange(f->folder, path, f->aside, err);
    if (code) return code;
    code = folder_sync(f->parent, err);
    if (code) take_back(f, path);
    return code;
}

int model_folder_end(ModelFolder *f, int code, Error *err) {
    if (!code) code = folder_sync(f->folder, err);
    if (!code) code = give_name(f, err);
    folder_remove(f->folder); // what was written, or what it took the place of
    let_go(f);
    return code;
}

// ---- texts

int model_folder_write_json(const ModelFolder *f, const char *name, cJSON *json, Error *err) {
    char path[PATH_MAX], *text = json_print(json, true);
    cJSON_Delete(json);
    int code = text ? path_join(path, f->folder, name, err) : fail_fault(err, "%s: no memory for %s", f->folder, name);
    if (!code) code = file_write_whole(path, text, strlen(text), err);
    cJSON_free(text);
    return code;
}

int model_folder_copy(const ModelFolder *f, const char *from, const char *name, Error *err) {
    char source[PATH_MAX], to[PATH_MAX];
    if (!model_folder_has(from, name)) return 0;
    int code = path_join(source, from, name, err);
    if (!code) code = path_join(to, f->folder, name, err);
    return code ? code : file_copy(source, to, err);
}

static void set_text(cJSON *json, const char *name, const char *text) {
    cJSON_DeleteItemFromObjectCaseSensitive(json, name);
    cJSON_AddStringToObject(json, name, text);
}

int model_folder_write_config(const ModelFolder *f, cJSON *json, ModelType type, Error *err) {
    const char *name = type == MODEL_FP32 ? "float32" : "bfloat16";
    if (type != MODEL_SAME) {
        set_text(json, "torch_dtype", name);
        set_text(json, "dtype", name);
    }
    return model_folder_write_json(f, "config.json", json, err);
}

// ---- files of tensors

const char *model_file_of(const SafetensorsReader *reader, const SafetensorsTensor *tensor) {
    const char *path = safetensors_path(reader, tensor), *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static bool begins_file(const ModelTensor *tensors, int t) {
    for (int before = 0; before < t; before++)
        if (strcmp(tensors[before].file, tensors[t].file) == 0) return false;
    return true;
}

static int put_tensors(const ModelTensor *tensors, int count, const char *file, SafetensorsWriter *writer, ModelPut put,
                       void *context, Error *err) {
    int code = 0;
    for (int t = 0; !code && t < count; t++)
        if (strcmp(tensors[t].file, file) == 0) code = put(context, writer, t, err);
    return code;
}

static int create_file(SafetensorsWriter **writer, const ModelFolder *f, const ModelTensor *tensors, int count,
                       const char *file, Error *err) {
    char path[PATH_MAX];
    SafetensorsTensor *header = calloc((size_t)count, sizeof *header);
    if (!header) return fail_fault(err, "%s: no memory for the header of %s", f->folder, file);
    int declared = 0;
    for (int t = 0; t < count; t++)
        if (strcmp(tensors[t].file, file) == 0) header[declared++] = tensors[t].tensor;
    int code = path_join(path, f->folder, file, err);
    if (!code) code = safetensors_create_plain(writer, path, header, declared, NULL, err);
    free(header);
    return code;
}

int model_folder_write_tensors(const ModelFolder *f, const ModelTensor *tensors, int count, ModelPut put, void *context,
                               Error *err) {
    int code = 0;
    for (int t = 0; !code && t < count; t++) {
        SafetensorsWriter *writer = NULL;
        if (!begins_file(tensors, t)) continue;
        code = create_file(&writer, f, tensors, count, tensors[t].file, err);
        if (code) return code;
        code = put_tensors(tensors, count, tensors[t].file, writer, put, context, err);
        if (!code)
            code = safetensors_finish(writer, err);
        else
            safetensors_discard(writer);
    }
    return code;
}

int model_folder_write_index(const ModelFolder *f, const ModelTensor *tensors, int count, Error *err) {
    bool single = true;
    uint64_t bytes = 0;
    for (int t = 0; t < count; t++) {
        single &= strcmp(tensors[t].file, "model.safetensors") == 0;
        bytes += safetensors_tensor_bytes(&tensors[t].tensor);
    }
    if (single) return 0;
    cJSON *root = cJSON_CreateObject(), *metadata = cJSON_AddObjectToObject(root, "metadata");
    cJSON_AddNumberToObject(metadata, "total_size", (double)bytes);
    cJSON *map = cJSON_AddObjectToObject(root, "weight_map");
    for (int t = 0; t < count; t++) cJSON_AddStringToObject(map, tensors[t].tensor.name, tensors[t].file);
    return model_folder_write_json(f, "model.safetensors.index.json", root, err);
}
