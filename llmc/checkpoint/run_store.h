// The store in a run's folder, and the name `checkpoint` there, which leads to the newest checkpoint.
#ifndef LLMC_CHECKPOINT_RUN_STORE_H
#define LLMC_CHECKPOINT_RUN_STORE_H

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

// Puts the checkpoints of the run in the folder aside (checkpoints.replaced), where `checkpoint` still finds them, as
// another run begins there. Errors: 1, 2.
int run_store_set_aside(const char *folder, Error *err);

// The first checkpoint of this run is whole: `checkpoint` leads to it, and those that were put aside are removed. Does
// nothing once that is so. Errors: 1, 2.
int run_store_show(const char *folder, Error *err);

#ifdef __cplusplus
}
#endif
#endif
