#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <ftw.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// Linux moves at most 2 GiB - 4 KiB in one call; smaller pieces keep a signal's wait short.
static const size_t max_transfer = (size_t)1 << 28;

int file_fail_open(Error *err, const char *path, int error_number) {
    switch (error_number) {
    case ENOENT:
    case ENOTDIR:
    case EISDIR:
    case EACCES:
    case EPERM:
    case EROFS:
    case ELOOP:
    case ENAMETOOLONG:
        return fail_input(err, "%s: %s", path, strerror(error_number));
    default:
        return fail_fault(err, "%s: cannot open: %s", path, strerror(error_number));
    }
}

int file_open_read(const char *path, int *fd, uint64_t *size, Error *err) {
    // O_NONBLOCK: opening a pipe must not wait for its writer; regular files don't care
    int opened = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (opened < 0) return file_fail_open(err, path, errno);

    struct stat status;
    int code = 0;
    if (fstat(opened, &status) != 0)
        code = fail_fault(err, "%s: fstat: %s", path, strerror(errno));
    else if (!S_ISREG(status.st_mode))
        code = fail_input(err, "%s: %s, expected a regular file", path,
                          S_ISDIR(status.st_mode) ? "a folder" : "a device or a pipe");
    if (code != 0) {
        close(opened);
        return code;
    }
    *fd = opened;
    *size = (uint64_t)status.st_size;
    return 0;
}

int file_read_at(int fd, void *data, size_t bytes, uint64_t offset, const char *path, Error *err) {
    size_t done = 0;
    while (done < bytes) {
        size_t piece = bytes - done < max_transfer ? bytes - done : max_transfer;
        ssize_t got = pread(fd, (char *)data + done, piece, (off_t)(offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            return fail_fault(err, "%s: read at byte %llu: %s", path, (unsigned long long)(offset + done),
                              strerror(errno));
        if (got == 0) {
            return fail_fault(err, "%s: file ends at byte %llu, expected %llu bytes at byte %llu: did it shrink?", path,
                              (unsigned long long)(offset + done), (unsigned long long)bytes,
                              (unsigned long long)offset);
        }
        done += (size_t)got;
    }
    return 0;
}

static int read_opened(int fd, uint64_t size, const char *path, size_t max_bytes, char **data, Error *err) {
    if (size > max_bytes) {
        return fail_input(err, "%s: file has %llu bytes, expected at most %zu", path, (unsigned long long)size,
                          max_bytes);
    }
    char *buffer = malloc((size_t)size + 1);
    if (buffer == NULL) return fail_fault(err, "%s: no memory for %llu bytes", path, (unsigned long long)size);
    int code = file_read_at(fd, buffer, (size_t)size, 0, path, err);
    if (code != 0) {
        free(buffer);
        return code;
    }
    buffer[size] = '\0';
    *data = buffer;
    return 0;
}

int file_read_whole(const char *path, size_t max_bytes, char **data, size_t *bytes, Error *err) {
    int fd;
    uint64_t size;
    int code = file_open_read(path, &fd, &size, err);
    if (code != 0) return code;
    code = read_opened(fd, size, path, max_bytes, data, err);
    if (code == 0) *bytes = (size_t)size;
    close(fd);
    return code;
}

// ---- folders

int folder_sync(const char *folder, Error *err) {
    int code = 0;
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || (fsync(fd) != 0 && errno != EINVAL)) // EINVAL: a file system without it
        code = fail_fault(err, "%s: fsync of the folder: %s", folder, strerror(errno));
    if (fd >= 0 && close(fd) != 0 && code == 0)
        code = fail_fault(err, "%s: close of the folder: %s", folder, strerror(errno));
    return code;
}

int folder_sync_parent(const char *path, Error *err) {
    char *copy = strdup(path);
    if (copy == NULL) return fail_fault(err, "%s: no memory for its folder's path", path);
    int code = folder_sync(dirname(copy), err);
    free(copy);
    return code;
}

uint64_t folder_bytes(const char *folder) {
    char *const paths[] = {(char *)folder, NULL};
    uint64_t bytes = 0;
    FTS *tree = fts_open(paths, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
    for (FTSENT *entry = tree ? fts_read(tree) : NULL; entry; entry = fts_read(tree))
        if (entry->fts_info == FTS_F && entry->fts_statp->st_nlink == 1)
            bytes += (uint64_t)entry->fts_statp->st_blocks * 512;
    if (tree) fts_close(tree);
    return bytes;
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *where) {
    (void)status, (void)type, (void)where;
    return remove(path);
}

void folder_remove(const char *folder) { nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS); }
