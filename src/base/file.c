#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
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
        code = fail_input(err, "%s: expected a regular file", path);
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
            return fail_fault(
                err, "%s: file ends at byte %llu, expected %llu bytes at byte %llu: did it shrink?", path,
                (unsigned long long)(offset + done), (unsigned long long)bytes, (unsigned long long)offset);
        }
        done += (size_t)got;
    }
    return 0;
}

static int read_opened(int fd, uint64_t size, const char *path, size_t max_bytes, char **data, Error *err) {
    if (size > max_bytes) {
        return fail_input(err, "%s: file has %llu bytes, expected at most %zu", path,
                          (unsigned long long)size, max_bytes);
    }
    char *buffer = malloc((size_t)size + 1);
    if (buffer == NULL)
        return fail_fault(err, "%s: no memory for %llu bytes", path, (unsigned long long)size);
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

static char *concatenate(const char *a, const char *b, const char *c, Error *err) {
    size_t room = strlen(a) + strlen(b) + strlen(c) + 1;
    char *text = malloc(room);
    if (text == NULL)
        fail_fault(err, "%s: no memory for a path", a);
    else
        snprintf(text, room, "%s%s%s", a, b, c);
    return text;
}

char *file_join(const char *folder, const char *name, Error *err) {
    size_t length = strlen(folder);
    return concatenate(folder, length > 0 && folder[length - 1] == '/' ? "" : "/", name, err);
}

static void forget(NewFile *file) {
    free(file->path);
    free(file->temporary);
    *file = (NewFile){.fd = -1};
}

int file_begin(NewFile *file, const char *path, Error *err) {
    *file = (NewFile){.fd = -1};
    file->path = concatenate(path, "", "", err);
    file->temporary = concatenate(path, ".tmp", "", err);
    int code = 0;
    if (file->path == NULL || file->temporary == NULL) code = ERROR_FAULT;
    if (code == 0) {
        file->fd = open(file->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
        if (file->fd < 0) code = file_fail_open(err, file->temporary, errno);
    }
    if (code != 0) forget(file);
    return code;
}

int file_append(NewFile *file, const void *data, size_t bytes, Error *err) {
    const char *from = data;
    while (bytes > 0) {
        ssize_t put = write(file->fd, from, bytes < max_transfer ? bytes : max_transfer);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0)
            return fail_fault(err, "%s: write: %s", file->temporary, strerror(put < 0 ? errno : ENOSPC));
        from += put;
        bytes -= (size_t)put;
    }
    return 0;
}

// A rename is on the disk only when its folder is.
static int sync_folder(const char *path, Error *err) {
    char *copy = concatenate(path, "", "", err);
    if (copy == NULL) return ERROR_FAULT;
    int code = 0;
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || (fsync(fd) != 0 && errno != EINVAL)) { // EINVAL: a file system without it
        code = fail_fault(err, "%s: fsync of its folder: %s", path, strerror(errno));
    }
    if (fd >= 0) close(fd);
    free(copy);
    return code;
}

int file_commit(NewFile *file, Error *err) {
    int code = 0;
    if (fsync(file->fd) != 0) code = fail_fault(err, "%s: fsync: %s", file->temporary, strerror(errno));
    if (close(file->fd) != 0 && code == 0)
        code = fail_fault(err, "%s: close: %s", file->temporary, strerror(errno));
    file->fd = -1;
    if (code == 0 && rename(file->temporary, file->path) != 0) {
        code = fail_fault(err, "%s: rename to %s: %s", file->temporary, file->path, strerror(errno));
    }
    if (code != 0) {
        file_discard(file);
        return code;
    }
    code = sync_folder(file->path, err);
    forget(file);
    return code;
}

void file_discard(NewFile *file) {
    if (file->fd >= 0) close(file->fd);
    if (file->temporary != NULL) unlink(file->temporary);
    forget(file);
}

int file_write_whole(const char *path, const void *data, size_t bytes, Error *err) {
    NewFile file;
    int code = file_begin(&file, path, err);
    if (code != 0) return code;
    code = file_append(&file, data, bytes, err);
    if (code == 0) return file_commit(&file, err);
    file_discard(&file);
    return code;
}

static int copy_opened(int fd, uint64_t size, const char *from, NewFile *to, Error *err) {
    char piece[1 << 16];
    for (uint64_t done = 0; done < size;) {
        size_t bytes = size - done < sizeof piece ? (size_t)(size - done) : sizeof piece;
        int code = file_read_at(fd, piece, bytes, done, from, err);
        if (code == 0) code = file_append(to, piece, bytes, err);
        if (code != 0) return code;
        done += bytes;
    }
    return 0;
}

int file_copy(const char *from, const char *to, Error *err) {
    int fd;
    uint64_t size;
    NewFile file;
    int code = file_open_read(from, &fd, &size, err);
    if (code != 0) return code;
    code = file_begin(&file, to, err);
    if (code == 0) {
        code = copy_opened(fd, size, from, &file, err);
        if (code == 0)
            code = file_commit(&file, err);
        else
            file_discard(&file);
    }
    close(fd);
    return code;
}
