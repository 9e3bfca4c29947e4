// One run in a folder at a time: a lock file that names its holder.
#ifndef LLMC_RUN_LOCK_H
#define LLMC_RUN_LOCK_H

#include <limits.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int fd; // -1: not held
    char path[PATH_MAX];
} Lock;

// Takes the lock (flock, which the system releases when its holder ends, however it ends) and writes "HOST PID" into the
// file. The file of a killed run is taken over, with a line on stdout; a file system without locks gets a line on stderr
// and no lock. Errors: 2 (held: "locked by HOST/PID"; the file cannot be made), 1.
int lock_take(Lock *lock, const char *path, Error *err);

// Releases it and removes the file. A lock that is not held is allowed.
void lock_release(Lock *lock);

#ifdef __cplusplus
}
#endif
#endif
