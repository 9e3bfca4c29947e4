// Rows of a batch out of shards: window w of a shard is its tokens [w*T, w*T + T] (loader.h).
#ifndef LLMC_LOADER_WINDOWS_H
#define LLMC_LOADER_WINDOWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "loader/batch.h"
#include "loader/data_file.h"
#include "loader/shard.h"
#include "loader/spec.h"

#ifdef __cplusplus
extern "C" {
#endif

// Opens a shard for a model of that vocabulary (shard_fit); *file = what it says of itself. On failure there is nothing to
// close. Errors: as shard_open and shard_fit.
int windows_open_shard(Shard *shard, const char *path, int vocab_size, DataFile *file, Error *err);

typedef struct {
    int32_t *scratch; // [T + 1]
    int row, T;
    bool document_mask;
} WindowRow;

// That row of the batch = tokens [first, first + T] of the shard; num_targets +=. Errors: as shard_read.
int windows_read(const Shard *shard, const WindowRow *to, uint64_t first, Batch *out, Error *err);

// The windows of a set of shards.
typedef struct Windows Windows;

// For at most max_files shards. Errors: 1 (memory).
int windows_create(Windows **out, const LoaderSpec *spec, int vocab_size, size_t max_files, Error *err);

// Opens one more shard; *file = what it says of itself. Errors: 2 (content, shorter than a window, no BOS id for the
// document mask), 1 (cannot be read).
int windows_add(Windows *windows, const char *path, DataFile *file, Error *err);

uint64_t windows_count(const Windows *windows);

// Row `row` of the batch = that window; num_targets +=. Errors: 2 (id outside the vocabulary), 1 (read).
int windows_fill(Windows *windows, uint64_t window, int row, Batch *out, Error *err);

void windows_close(Windows *windows); // NULL is allowed

#ifdef __cplusplus
}
#endif
#endif
