#ifndef LLMC_BASE_PATH_H
#define LLMC_BASE_PATH_H

#include <limits.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

// path = folder "/" name, with one slash where the folder ends in one. Errors: 2 (longer than a path may be).
int path_join(char path[PATH_MAX], const char *folder, const char *name, Error *err);

// path = that of a file `name` in the folder in which `file` lies. Errors: 2 (longer than a path may be).
int path_beside(char path[PATH_MAX], const char *file, const char *name, Error *err);

#ifdef __cplusplus
}
#endif
#endif
