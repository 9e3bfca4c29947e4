// Writing files, which appear whole or not at all, with the path in every message.
#ifndef LLMC_BASE_NEW_FILE_H
#define LLMC_BASE_NEW_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/hash.h"

#ifdef __cplusplus
extern "C" {
#endif

// A new file, written from front to back in large pieces. file_begin creates (or truncates) the temporary file path ".tmp";
// file_begin_plain creates the file under its own name, for a folder that is itself temporary, and hashes what is written.
// file_append appends; the bytes may stay in memory. file_commit syncs all to the disk (fsync), and renames a temporary file
// and syncs its folder. After a failure the caller calls file_discard; file_commit and file_discard end the file in any
// case.
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

// The three of them in one.
int file_write_whole(const char *path, const void *data, size_t bytes, Error *err);

// to = a copy of the text file `from` without a byte order mark; it appears whole or not at all.
int file_copy(const char *from, const char *to, Error *err);

#ifdef __cplusplus
}
#endif
#endif
