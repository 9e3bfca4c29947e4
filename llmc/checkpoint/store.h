// A store: the folder with a run's checkpoints, step_00000100 and so on, and `latest`, a link to the newest.
#ifndef LLMC_CHECKPOINT_STORE_H
#define LLMC_CHECKPOINT_STORE_H

#include <limits.h>
#include <stdint.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { STORE_NAME_SIZE = 32 };

typedef struct {
    int64_t step;
    char name[STORE_NAME_SIZE]; // step_00000100
} StoreEntry;

void store_name(char name[STORE_NAME_SIZE], int64_t step);

// *out = the checkpoints that have their name (whole, if nobody damaged them), newest first, to be freed by the
// caller. No such folder: none. Errors: 1, 2 (it cannot be read).
int store_list(StoreEntry **out, int *count, const char *store, Error *err);

// path = the newest checkpoint that checkpoint_verify accepts; "" where there is none. report (NULL allowed) is called
// for each one that was passed over. Errors: as store_list.
typedef void (*StoreReport)(void *context, const char *path, const char *reason);
int store_newest_whole(char path[PATH_MAX], const char *store, StoreReport report, void *context, Error *err);

// Removes what writes that were cut short left behind. Not while a write runs.
void store_clean(const char *store);

// Gives the folder `made` the name `path`. What had that name, if anything that is not empty, is called `made` then. Where the
// file system cannot exchange names, a folder `aside` is removed, and for a moment it has that name. Errors: 1.
int store_exchange(const char *made, const char *path, const char *aside, Error *err);

// ---- for checkpoint_write

// Gives the folder `made`, which lies in the store, the name `name` there; what had that name is removed. Errors: 1.
int store_take_name(const char *store, const char *made, const char *name, Error *err);

// latest -> name, at once. Errors: 1.
int store_set_latest(const char *store, const char *name, Error *err);

// *out = the checkpoints that may go to make room, newest first, to be freed by the caller: those older than that of
// whole_step, of which a folder must be there, and not of a multiple of keep_every (0: none is). Errors: as store_list.
int store_expendable(StoreEntry **out, int *count, const char *store, int64_t whole_step, int64_t keep_every,
                     Error *err);

// Removes the checkpoint of that name; a folder that is on its way out does not keep the name of a whole one.
void store_remove(const char *store, const char *name);

// Removes all but the newest keep_last (0: all stay), those whose step is a multiple of keep_every (0: none), and `name`.
void store_prune(const char *store, const char *name, int keep_last, int64_t keep_every);

#ifdef __cplusplus
}
#endif
#endif
