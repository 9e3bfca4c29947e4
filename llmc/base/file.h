// Files at the boundary: whole reads and writes, with the file's name in every message.
#ifndef LLMC_BASE_FILE_H
#define LLMC_BASE_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/hash.h"

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

// A new file, written from front to back in large pieces. file_begin makes (truncates) the temporary file
// path ".tmp", and the file appears under its name whole or not at all; file_begin_plain makes it under its own
// name, for a folder that is itself temporary, and takes the hash of what is to be written. file_append writes on
// (what it was given may still be in memory); file_commit brings all to the disk (fsync), renames and syncs the
// folder where there is a temporary name. After a failure the caller calls file_discard; file_commit and
// file_discard end the file in any case.
typedef struct {
    char *path, *temporary; // owned; temporary NULL: plain
    int fd;
    char *buffer; // what is not written yet: [filled]
    size_t filled;
    uint64_t written; // bytes handed to the system
    Hasher *hasher;   // NULL: not plain
} NewFile;
int file_begin(NewFile *file, const char *path, Error *err);
int file_begin_plain(NewFile *file, const char *path, Error *err);
int file_append(NewFile *file, const void *data, size_t bytes, Error *err);
int file_commit(NewFile *file, Error *err);
void file_discard(NewFile *file);
Digest file_digest(const NewFile *file);             // plain only: of all that was appended
const char *file_being_written(const NewFile *file); // its name at present, for messages

// The three of them in one.
int file_write_whole(const char *path, const void *data, size_t bytes, Error *err);

// UTF-8's byte order mark, which some editors put in front of a text.
#define TEXT_MARK "\xEF\xBB\xBF"

// to = a copy of the text file `from` without a byte order mark; it appears whole or not at all.
int file_copy(const char *from, const char *to, Error *err);

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
