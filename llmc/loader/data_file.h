// What the loader asks of any file of a set, whatever its format, and what all files of a set must agree in.
#ifndef LLMC_LOADER_DATA_FILE_H
#define LLMC_LOADER_DATA_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "loader/spec.h"

#ifdef __cplusplus
extern "C" {
#endif

// Pointers are into what the file was opened as.
typedef struct {
    const char *path;
    LoaderKind kind;
    uint32_t token_bits, vocab_size, bos_id, eos_id;
    uint64_t num_tokens, num_rows;   // num_rows: 0 for shards
    const uint8_t *tokenizer_sha256; // NULL: the file names none
    const char *digest;              // of the content; NULL for shards, which nobody has read whole
} DataFile;

// Refuses (2), by what the file begins with alone, what is no shard where shards are expected, and no row file where those
// are. *names_tokenizer (NULL allowed) = whether its header tells of which tokenizer the ids are.
int data_file_check_kind(const char *path, LoaderKind expected, bool *names_tokenizer, Error *err);

// The same (2) once the kind of row file is known.
int data_file_refuse_kind(const char *path, LoaderKind found, LoaderKind expected, Error *err);

// Refuses (2) what does not fit the model's vocabulary, the run's tokenizer (NULL: not asked) or the set's first file.
int data_file_check(const DataFile *file, const DataFile *first, int vocab_size, const uint8_t *tokenizer_sha256,
                    Error *err);

// Of everything that the headers say and of row files' contents, and the files' names without their folder: data may be
// moved, not changed.
uint64_t data_file_fingerprint(const DataFile *files, int count);

#ifdef __cplusplus
}
#endif
#endif
