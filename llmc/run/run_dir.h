// The output folder of a run:
//   log.jsonl  trainer_options.json  tokenizer.json  tokenizer_config.json  meta.json (of the data)
//   lock                   while a run writes here
//   checkpoints/           the store of checkpoints
//   checkpoint             -> checkpoints/latest
//   checkpoints.replaced/  those of the run that --overwrite replaces, until the first new one is whole
#ifndef LLMC_RUN_RUN_DIR_H
#define LLMC_RUN_RUN_DIR_H

#include <limits.h>
#include <stdbool.h>

#include "run/lock.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const char *folder; // the caller's
    bool made;          // it was not there before
    Lock lock;
} RunDir;

// Makes the folder if it is not there (and those above it), proves by a trial write that files can be made in
// it, and locks it. Changes nothing that is in it. run_dir_close is due in any case. Errors: 2, 1.
int run_dir_open(RunDir *dir, const char *folder, Error *err);

// Gives the lock back, and removes the folder again if it was made and is still empty.
void run_dir_close(RunDir *dir);

// Refuses (2) a folder that holds a run. may_be_begun: one that has no checkpoint yet is no run.
int run_dir_refuse_run(const char *folder, bool may_be_begun, Error *err);

// The same for what --eval-only finds, which is log.jsonl alone. replace: such a log may be there.
int run_dir_refuse_results(const char *folder, bool replace, Error *err);

// Copies a file into the folder under that name. Errors: 2, 1.
int run_dir_copy(const char *folder, const char *file, const char *name, Error *err);

// Copies the file `name` that lies beside `file`, if there is one. Errors: 2, 1.
int run_dir_copy_beside(const char *folder, const char *file, const char *name, Error *err);

#ifdef __cplusplus
}
#endif
#endif
