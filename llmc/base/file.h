// Reading files, and folders, with the path in every message. Writing: new_file.h.
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

// Brings a folder's names to the disk: a file that was made or renamed is there for good only then. The parent is the
// folder in which `path` lies. Errors: 1.
int folder_sync(const char *folder, Error *err);
int folder_sync_parent(const char *path, Error *err);

// Bytes that removing a folder would give back: files that have no other name.
uint64_t folder_bytes(const char *folder);

// Removes a folder and all that is in it; what does not exist is removed already. Links are removed, not
// followed.
void folder_remove(const char *folder);

#ifdef __cplusplus
}
#endif
#endif
