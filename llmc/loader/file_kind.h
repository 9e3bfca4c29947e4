// What a file is that a reader refuses, told by its first bytes: for the message, with what to do with such a file.
#ifndef LLMC_LOADER_FILE_KIND_H
#define LLMC_LOADER_FILE_KIND_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// head: the file's first `count` bytes, or all it has. Never NULL: what has no known beginning is called unknown bytes.
const char *file_kind(const uint8_t *head, size_t count);

#ifdef __cplusplus
}
#endif
#endif
