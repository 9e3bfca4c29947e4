// Files at the boundary: whole reads and writes, with the file's name in every message.
#ifndef LLMC_BASE_FILE_H
#define LLMC_BASE_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

// Sets the error of a file that could not be opened or made: 2 where the path is to blame (missing, not
// permitted, not a folder, ...), else 1. Returns the code.
int file_fail_open(Error *err, const char *path, int error_number);

// Opens a regular file for reading; anything else (folder, pipe) is refused (2). *fd and *size (bytes) =.
int file_open_read(const char *path, int *fd, uint64_t *size, Error *err);

// data = bytes [offset, offset + bytes) of fd; a file that ends before is an error (1). path: for the
// message.
int file_read_at(int fd, void *data, size_t bytes, uint64_t offset, const char *path, Error *err);

// *data = the file's bytes and a zero byte behind them, to be freed by the caller; *bytes without that zero.
// More than max_bytes: refused (2) before anything is allocated.
int file_read_whole(const char *path, size_t max_bytes, char **data, size_t *bytes, Error *err);

// A file that appears under its name whole or not at all. file_begin makes (truncates) the temporary file
// path ".tmp"; file_append writes on; file_commit brings it to the disk (fsync), renames it and syncs the
// folder. After a failure the caller calls file_discard; file_commit and file_discard end the file in any
// case.
typedef struct {
    char *path, *temporary; // owned
    int fd;
} NewFile;
int file_begin(NewFile *file, const char *path, Error *err);
int file_append(NewFile *file, const void *data, size_t bytes, Error *err);
int file_commit(NewFile *file, Error *err);
void file_discard(NewFile *file);

// The three of them in one.
int file_write_whole(const char *path, const void *data, size_t bytes, Error *err);

// to = a copy of the file `from`; it appears whole or not at all.
int file_copy(const char *from, const char *to, Error *err);

// folder "/" name, to be freed by the caller; NULL (1) when memory is short.
char *file_join(const char *folder, const char *name, Error *err);

#ifdef __cplusplus
}
#endif
#endif
