// The beginning of this project's binary files: a magic of 8 bytes, a version (u32 at 8) and a byte order mark (u32 at 12).
// All numbers are little endian.
#ifndef LLMC_LOADER_HEADER_H
#define LLMC_LOADER_HEADER_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HEADER_BYTES = 256 };

static inline uint32_t load_u32(const uint8_t *at) {
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static inline uint64_t load_u64(const uint8_t *at) { return load_u32(at) | (uint64_t)load_u32(at + 4) << 32; }

// Refuses (2) another magic (and says what the file is instead), fewer than HEADER_BYTES, another byte order or version.
// header: the file's first `count` bytes; `kind` says what the file should be, for the message ("a shard").
int header_check(const uint8_t *header, size_t count, const char magic[8], uint32_t version, const char *kind,
                 const char *path, Error *err);

// header [HEADER_BYTES] = the first bytes of a file of `size` bytes, and zeros if it is shorter; *count = how many are its.
int header_read(uint8_t *header, size_t *count, int fd, uint64_t size, const char *path, Error *err);

// Refuses (2) bytes [begin, end) that are not zero: a later version may give them a meaning.
int header_check_zero(const uint8_t *header, int begin, int end, const char *path, Error *err);

#ifdef __cplusplus
}
#endif
#endif
