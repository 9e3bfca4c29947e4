#include "base/new_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/text.h"

// A write of this size costs little beside its bytes, and the next is prepared while the disk works.
static const size_t buffer_bytes = (size_t)8 << 20;

static char *concatenate(const char *a, const char *b, Error *err) {
    size_t room = strlen(a) + strlen(b) + 1;
    char *text = malloc(room);
    if (text == NULL)
        fail_fault(err, "%s: no memory for a path", a);
    else
        snprintf(text, room, "%s%s", a, b);
    return text;
}

static void forget(NewFile *file) {
    free(file->path);
    free(file->temporary);
    free(file->buffer);
    hasher_destroy(file->hasher);
    *file = (NewFile){.fd = -1};
}

// The name that it has at present, for messages.
static const char *present_name(const NewFile *file) { return file->temporary != NULL ? file->temporary : file->path; }

static int begin(NewFile *file, const char *path, bool plain, Error *err) {
    *file = (NewFile){.fd = -1};
    file->path = concatenate(path, "", err);
    file->buffer = malloc(buffer_bytes); // of a small file most of it is never touched
    if (plain)
        file->hasher = hasher_create();
    else
        file->temporary = concatenate(path, ".tmp", err);
    int code = 0;
    if (file->path == NULL || file->buffer == NULL || (plain ? (void *)file->hasher : file->temporary) == NULL)
        code = fail_fault(err, "%s: no memory to write it", path);
    if (code == 0) {
        file->fd = open(present_name(file), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
        if (file->fd < 0) code = file_fail_open(err, present_name(file), errno);
    }
    if (code != 0) forget(file);
    return code;
}

int file_begin(NewFile *file, const char *path, Error *err) { return begin(file, path, false, err); }

int file_begin_plain(NewFile *file, const char *path, Error *err) { return begin(file, path, true, err); }

static int put(NewFile *file, const char *from, size_t bytes, Error *err) {
    while (bytes > 0) {
        ssize_t done = write(file->fd, from, bytes < buffer_bytes ? bytes : buffer_bytes);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return fail_fault(err, "%s: write: %s", present_name(file), strerror(done < 0 ? errno : ENOSPC));
        // the disk begins now, while the next piece is prepared; where it can't, fsync does all
        sync_file_range(file->fd, (off_t)file->written, done, SYNC_FILE_RANGE_WRITE);
        file->written += (size_t)done;
        from += done;
        bytes -= (size_t)done;
    }
    return 0;
}

static int flush(NewFile *file, Error *err) {
    int code = put(file, file->buffer, file->filled, err); // NOLINT(clang-analyzer-unix.Malloc): forget frees it
    file->filled = 0;
    return code;
}

int file_append(NewFile *file, const void *data, size_t bytes, Error *err) {
    const char *from = data;
    if (file->hasher != NULL) hasher_add(file->hasher, data, bytes);
    if (file->filled == 0 && bytes >= buffer_bytes) { // large pieces go as they are
        size_t whole = bytes / buffer_bytes * buffer_bytes;
        int code = put(file, from, whole, err);
        if (code != 0) return code;
        from += whole;
        bytes -= whole;
    }
    while (bytes > 0) {
        size_t room = buffer_bytes - file->filled, piece = bytes < room ? bytes : room;
        memcpy(file->buffer + file->filled, from, piece);
        file->filled += piece;
        from += piece;
        bytes -= piece;
        int code = file->filled == buffer_bytes ? flush(file, err) : 0;
        if (code != 0) return code;
    }
    return 0;
}

Digest file_digest(const NewFile *file) { return hasher_digest(file->hasher); }

int file_commit(NewFile *file, Error *err) {
    const char *name = present_name(file);
    int code = flush(file, err);
    if (code == 0 && fsync(file->fd) != 0) code = fail_fault(err, "%s: fsync: %s", name, strerror(errno));
    if (close(file->fd) != 0 && code == 0) code = fail_fault(err, "%s: close: %s", name, strerror(errno));
    file->fd = -1;
    if (code == 0 && file->temporary != NULL && rename(name, file->path) != 0) {
        code = fail_fault(err, "%s: rename to %s: %s", name, file->path, strerror(errno));
    }
    if (code != 0) {
        file_discard(file);
        return code;
    }
    if (file->temporary != NULL) code = folder_sync_parent(file->path, err);
    forget(file);
    return code;
}

void file_discard(NewFile *file) {
    if (file->fd >= 0) close(file->fd);
    if (file->path != NULL) unlink(present_name(file));
    forget(file);
}

// ---- whole files

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
    size_t head = size < sizeof TEXT_MARK - 1 ? 0 : sizeof TEXT_MARK - 1;
    int code = file_read_at(fd, piece, head, 0, from, err);
    if (code != 0) return code;
    for (uint64_t done = memcmp(piece, TEXT_MARK, head) == 0 ? head : 0; done < size;) {
        size_t bytes = size - done < sizeof piece ? (size_t)(size - done) : sizeof piece;
        code = file_read_at(fd, piece, bytes, done, from, err);
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
