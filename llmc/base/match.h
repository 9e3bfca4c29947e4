// The files that a user names by a path, or by a pattern as in the shell.
#ifndef LLMC_BASE_MATCH_H
#define LLMC_BASE_MATCH_H

#include <stddef.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    char **paths; // [count], in the order of their bytes
    size_t count;
} FileList;

// *list = the files that `pattern` names. Each part between slashes is taken as a name if something of that name exists, so
// that brackets in a folder's name are no pattern; else as a pattern (*, ?, [ab], \ before one of them). what: the kind of
// file that is expected, for the message. Errors, with an empty list: 2 (no file, a folder that cannot be read), 1.
int file_match(FileList *list, const char *pattern, const char *what, Error *err);

void file_list_free(FileList *list);

#ifdef __cplusplus
}
#endif
#endif
