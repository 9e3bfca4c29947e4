// Recognises a file that a reader refuses by its first bytes: for the message, with advice what to do with such a file.
#ifndef LLMC_LOADER_FILE_KIND_H
#define LLMC_LOADER_FILE_KIND_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// head: the file's first `count` bytes, or all it has. Never NULL: an unknown beginning is called that.
const char *file_kind(const uint8_t *head, size_t count);

#ifdef __cplusplus
}
#endif
#endif
