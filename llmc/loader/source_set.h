// The files of several named sources of shards, which must all be of one kind.
#ifndef LLMC_LOADER_SOURCE_SET_H
#define LLMC_LOADER_SOURCE_SET_H

#include <stdint.h>

#include "base/error.h"
#include "loader/data_file.h"
#include "loader/loader.h"
#include "loader/shard.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const char *name, *pattern; // unique; of shards (file_match)
    double max_epochs;          // how often it may be read: 1.5 is once and then half of it; 0: no limit
} MixtureSource;

typedef struct {
    char *name;
    int first, count; // its files
    uint64_t num_tokens;
} SourceFiles;

typedef struct {
    SourceFiles *sources; // [count]
    Shard *shards;        // [num_files], those of a source one after the other
    DataFile *files;      // [num_files]
    int count, num_files, vocab_size;
} SourceSet;

// Opens and checks the files of all sources. They must agree in token width, vocabulary, BOS id and tokenizer, fit into the
// model's vocab_size and, if tokenizer_sha256 is not NULL, be of that tokenizer; no file may be there twice, in one source or in
// two. Keeps nothing of `sources`. Errors, after which source_set_close is due: 2 (no match, content, disagreement), 1
// (cannot be read, memory).
int source_set_open(SourceSet *set, const MixtureSource *sources, int count, int vocab_size,
                    const uint8_t *tokenizer_sha256, Error *err);
void source_set_close(SourceSet *set);

// Refuses (2) a validation set of which any source has a file (loader/overlap.h). owner: the source that it belongs to.
int source_set_refuse_overlap(const SourceSet *set, const Loader *val, const char *owner, Error *err);

#ifdef __cplusplus
}
#endif
#endif
