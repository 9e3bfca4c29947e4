// The output folder of a run:
//   log.jsonl  trainer_options.json  tokenizer.json  tokenizer_config.json  meta.json (of the data)
//   checkpoint/
#ifndef LLMC_TRAIN_RUN_DIR_H
#define LLMC_TRAIN_RUN_DIR_H

#include <limits.h>
#include <stdbool.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

// Makes the folder if it is not there (and those above it), refuses one that holds a run unless overwrite,
// and proves by a trial write that files can be made in it. Changes nothing that is in it. Errors: 2.
int run_dir_open(const char *folder, bool overwrite, Error *err);

// out = folder "/" name. Errors: 2 (longer than a path may be).
int run_dir_path(char out[PATH_MAX], const char *folder, const char *name, Error *err);

// out = the path of a file `name` in the folder in which `file` lies. Errors: 2 (too long).
int run_dir_path_beside(char out[PATH_MAX], const char *file, const char *name, Error *err);

// Copies a file into the folder under that name. Errors: 2, 1.
int run_dir_copy(const char *folder, const char *file, const char *name, Error *err);

// Copies the file `name` that lies beside `file`, if there is one. Errors: 2, 1.
int run_dir_copy_beside(const char *folder, const char *file, const char *name, Error *err);

#ifdef __cplusplus
}
#endif
#endif
