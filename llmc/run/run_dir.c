#include "run/run_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/new_file.h"
#include "base/path.h"

static int fail_folder(Error *err, const char *folder, const char *what, int error_number) {
    return fail_input(err, "--output %s: expected a folder that can be written to, %s: %s", folder, what,
                      strerror(error_number));
}

// mkdir -p
static int make_folders(const char *folder, bool *made, Error *err) {
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s", folder) >= PATH_MAX) return fail_folder(err, "", "found", ENAMETOOLONG);
    for (char *slash = path + 1; *slash; slash++) {
        if (*slash != '/') continue;
        *slash = 0;
        if (mkdir(path, 0777) != 0 && errno != EEXIST) return fail_folder(err, folder, "making it failed", errno);
        *slash = '/';
    }
    *made = mkdir(path, 0777) == 0;
    if (!*made && errno != EEXIST) return fail_folder(err, folder, "making it failed", errno);
    struct stat status;
    if (stat(folder, &status) != 0) return fail_folder(err, folder, "opening it failed", errno);
    return S_ISDIR(status.st_mode) ? 0 : fail_folder(err, folder, "found a file", ENOTDIR);
}

static bool holds(const char *folder, const char *name, mode_t *type) {
    char path[PATH_MAX];
    struct stat status;
    if (path_join(path, folder, name, NULL) || lstat(path, &status) != 0) return false;
    *type = status.st_mode & S_IFMT;
    return true;
}

static const char *const signs[] = {"log.jsonl", "trainer_options.json", "checkpoints/latest", "checkpoint",
                                    "model.safetensors"};
enum { SIGNS = sizeof signs / sizeof *signs };

int run_dir_refuse_results(const char *folder, bool replace, Error *err) {
    for (size_t i = 0; i < SIGNS; i++) {
        mode_t type;
        const bool results = strcmp(signs[i], "log.jsonl") == 0;
        if ((results && replace) || !holds(folder, signs[i], &type)) continue;
        return fail_input(err,
                          "--output %s: found %s in it, expected a folder of its own for the results of --eval-only%s",
                          folder, signs[i], results ? ", or --overwrite to replace earlier ones" : "");
    }
    return 0;
}

int run_dir_refuse_run(const char *folder, bool may_be_begun, Error *err) {
    for (size_t i = 0; i < SIGNS; i++) {
        mode_t type;
        if (!holds(folder, signs[i], &type)) continue;
        bool link = strcmp(signs[i], "checkpoint") == 0 && type == S_IFLNK;
        if (may_be_begun && (link || i < 3)) continue;
        return fail_input(err,
                          "--output %s: expected a folder without a run, found %s in it; --resume auto goes on "
                          "with that run, --overwrite replaces it",
                          folder, signs[i]);
    }
    return 0;
}

static int trial_write(const char *folder, Error *err) {
    char path[PATH_MAX];
    if (path_join(path, folder, ".trial_write", err)) return err->code;
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) return fail_folder(err, folder, "a trial write failed", errno);
    bool good = write(fd, "trial\n", 6) == 6;
    int error_number = good ? 0 : errno ? errno : ENOSPC;
    if (close(fd) != 0 && good) error_number = errno;
    unlink(path);
    return error_number ? fail_folder(err, folder, "a trial write failed", error_number) : 0;
}

int run_dir_open(RunDir *dir, const char *folder, Error *err) {
    char path[PATH_MAX];
    *dir = (RunDir){.folder = folder, .lock.fd = -1};
    int code = make_folders(folder, &dir->made, err);
    if (!code) code = trial_write(folder, err);
    if (!code) code = path_join(path, folder, "lock", err);
    return code ? code : lock_take(&dir->lock, path, err);
}

void run_dir_close(RunDir *dir) {
    lock_release(&dir->lock);
    if (dir->made) rmdir(dir->folder); // succeeds only if it is empty: nothing came of this run
}

// ---- files

int run_dir_copy(const char *folder, const char *file, const char *name, Error *err) {
    char to[PATH_MAX];
    int code = path_join(to, folder, name, err);
    return code ? code : file_copy(file, to, err);
}

int run_dir_copy_beside(const char *folder, const char *file, const char *name, Error *err) {
    char from[PATH_MAX];
    int code = path_beside(from, file, name, err);
    return code || access(from, F_OK) != 0 ? code : run_dir_copy(folder, from, name, err);
}
