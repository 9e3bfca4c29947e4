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

// data = bytes [offset, offset + bytes) of fd; a file that ends earlier is an error (1). path: for the message.
int file_read_at(int fd, void *data, size_t bytes, uint64_t offset, const char *path, Error *err);

// *data = the file's bytes and a zero byte after them, to be freed by the caller; *bytes = how many, without that zero. A file
// of more than max_bytes is refused (2) before anything is allocated.
int file_read_whole(const char *path, size_t max_bytes, char **data, size_t *bytes, Error *err);

// Syncs a folder's names to the disk, without which a new or renamed file may be lost in a crash. The parent is the folder
// in which `path` lies. Errors: 1.
int folder_sync(const char *folder, Error *err);
int folder_sync_parent(const char *path, Error *err);

// Returns the bytes that removing a folder would free: those of files that have no other name.
uint64_t folder_bytes(const char *folder);

// Removes a folder and all that is in it, if it exists. Links are removed, not followed.
void folder_remove(const char *folder);

#ifdef __cplusplus
}
#endif
#endif
