// Files of a validation set that training would see.
#ifndef LLMC_LOADER_OVERLAP_H
#define LLMC_LOADER_OVERLAP_H

#include <stdbool.h>

#include "base/error.h"
#include "loader/data_file.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const DataFile *train, *val; // NULL: no file is in both sets
    bool copy;                   // two files of the same content, not one
} Overlap;

// *found = the first validation file that is a training file too: the same one, under whatever name, or a copy. Row files are
// compared whole; of shards, which nobody reads whole, what the header says, the size, and the first and the last bytes.
// Errors: 1 (memory).
int overlap_find(const DataFile *train, int train_count, const DataFile *val, int val_count, Overlap *found,
                 Error *err);

// Refuses (2) a validation file that is a training file too.
int overlap_refuse(const DataFile *train, int train_count, const DataFile *val, int val_count, Error *err);

// How many files of a set it has already under another name. *first and *second (=): two names of one file; as before if
// there is none.
int overlap_count_duplicates(const DataFile *files, int count, const char **first, const char **second);

#ifdef __cplusplus
}
#endif
#endif
