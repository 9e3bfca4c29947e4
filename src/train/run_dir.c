#include "train/run_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

static const char *const signs_of_a_run[] = {"log.jsonl", "trainer_options.json", "checkpoint",
                                             "model.safetensors"};

int run_dir_path(char out[PATH_MAX], const char *folder, const char *name, Error *err) {
    int length = snprintf(out, PATH_MAX, "%s/%s", folder, name);
    if (length > 0 && length < PATH_MAX) return 0;
    return fail_input(err, "%.200s...: expected a path of at most %d bytes", folder, PATH_MAX - 1);
}

static int fail_folder(Error *err, const char *folder, const char *what, int error_number) {
    return fail_input(err, "--output %s: expected a folder that can be written to, %s: %s", folder, what,
                      strerror(error_number));
}

// mkdir -p
static int make_folders(const char *folder, Error *err) {
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s", folder) >= PATH_MAX)
        return fail_folder(err, "", "found", ENAMETOOLONG);
    for (char *slash = path + 1; *slash; slash++) {
        if (*slash != '/') continue;
        *slash = 0;
        if (mkdir(path, 0777) != 0 && errno != EEXIST)
            return fail_folder(err, folder, "making it failed", errno);
        *slash = '/';
    }
    if (mkdir(path, 0777) != 0 && errno != EEXIST) return fail_folder(err, folder, "making it failed", errno);
    struct stat status;
    if (stat(folder, &status) != 0) return fail_folder(err, folder, "opening it failed", errno);
    return S_ISDIR(status.st_mode) ? 0 : fail_folder(err, folder, "found a file", ENOTDIR);
}

static int refuse_run(const char *folder, Error *err) {
    for (size_t i = 0; i < sizeof signs_of_a_run / sizeof signs_of_a_run[0]; i++) {
        char path[PATH_MAX];
        struct stat status;
        if (run_dir_path(path, folder, signs_of_a_run[i], err)) return err->code;
        if (lstat(path, &status) == 0)
            return fail_input(
                err, "--output %s: expected a folder without a run, found %s in it; --overwrite replaces it",
                folder, signs_of_a_run[i]);
    }
    return 0;
}

static int trial_write(const char *folder, Error *err) {
    char path[PATH_MAX];
    if (run_dir_path(path, folder, ".trial_write", err)) return err->code;
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) return fail_folder(err, folder, "a trial write failed", errno);
    bool good = write(fd, "trial\n", 6) == 6;
    int error_number = good ? 0 : errno ? errno : ENOSPC;
    if (close(fd) != 0 && good) error_number = errno;
    unlink(path);
    return error_number ? fail_folder(err, folder, "a trial write failed", error_number) : 0;
}

int run_dir_open(const char *folder, bool overwrite, Error *err) {
    int code = make_folders(folder, err);
    if (!code && !overwrite) code = refuse_run(folder, err);
    return code ? code : trial_write(folder, err);
}

int run_dir_copy(const char *folder, const char *file, const char *name, Error *err) {
    char to[PATH_MAX];
    int code = run_dir_path(to, folder, name, err);
    return code ? code : file_copy(file, to, err);
}

int run_dir_path_beside(char out[PATH_MAX], const char *file, const char *name, Error *err) {
    const char *slash = strrchr(file, '/');
    int length = snprintf(out, PATH_MAX, "%.*s%s", slash ? (int)(slash - file) + 1 : 0, file, name);
    if (length >= 0 && length < PATH_MAX) return 0;
    return fail_input(err, "%.200s...: expected a path of at most %d bytes", file, PATH_MAX - 1);
}

int run_dir_copy_beside(const char *folder, const char *file, const char *name, Error *err) {
    char from[PATH_MAX];
    int code = run_dir_path_beside(from, file, name, err);
    return code || access(from, F_OK) != 0 ? code : run_dir_copy(folder, from, name, err);
}
