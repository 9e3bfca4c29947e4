#include "checkpoint/find_model.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/path.h"
#include "checkpoint/model_folder.h"
#include "model/no_model.h"

int find_model_check_link(const char *path, Error *err) {
    char target[PATH_MAX];
    const ssize_t length = readlink(path, target, sizeof target);
    if (length <= 0 || access(path, F_OK) == 0) return 0;
    return fail_input(
        err,
        "%s: a link to %.*s, which is not there: cp -r copies a run's checkpoint, which is a link, as that "
        "alone; cp -rL copies what it leads to",
        path, length < 300 ? (int)length : 300, target);
}

static bool holds_model(const char *folder) {
    return model_folder_has(folder, "config.json") || model_folder_has(folder, "adapter_config.json");
}

static int check_folder(const char *path, Error *err) {
    struct stat status;
    if (stat(path, &status) != 0 && errno == ENOENT)
        return fail_input(err, "%s: no such folder, expected one on this machine (no model is downloaded)", path);
    if (stat(path, &status) != 0) return file_fail_open(err, path, errno);
    if (S_ISDIR(status.st_mode)) return 0;
    const char *slash = strrchr(path, '/');
    return fail_input(err, "%s: a file, expected the folder that holds it: %.*s", path,
                      slash ? (int)(slash - path) + (slash == path) : 1, slash ? path : ".");
}

static int keep(const char **path, const char *found, Error *err) {
    char *copy = strdup(found);
    if (!copy) return fail_fault(err, "%s: no memory for a path", found);
    *path = copy;
    return 0;
}

int find_model(const char **folder, Error *err) {
    int code = find_model_check_link(*folder, err);
    if (!code) code = check_folder(*folder, err);
    if (code || holds_model(*folder)) return code;
    char checkpoint[PATH_MAX];
    code = path_join(checkpoint, *folder, "checkpoint", err);
    if (!code) code = find_model_check_link(checkpoint, err);
    return code || !holds_model(checkpoint) ? code : keep(folder, checkpoint, err);
}

int find_whole_model(const char **folder, Error *err) {
    int code = find_model(folder, err);
    if (code || !model_folder_has(*folder, "adapter_config.json")) return code;
    if (model_folder_has(*folder, "model.safetensors") || model_folder_has(*folder, "model.safetensors.index.json"))
        return 0;
    return explain_no_model(*folder, err);
}

int find_file(const char **path, const char *name, Error *err) {
    struct stat status;
    if (stat(*path, &status) != 0 || !S_ISDIR(status.st_mode)) return 0;
    int code = find_model(path, err);
    if (code) return code;
    if (!model_folder_has(*path, name))
        return fail_input(err, "%s: a folder without %s, expected that file", *path, name);
    char found[PATH_MAX];
    code = path_join(found, *path, name, err);
    return code ? code : keep(path, found, err);
}
