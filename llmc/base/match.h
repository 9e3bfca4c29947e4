// The files that a user's option names: a path, or a pattern as the shell has them.
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

// *list = the files that `pattern` names. Each part of it between slashes is the name of what is there, if something of
// that name is, and else a pattern (*, ?, [ab], \ before one of them): brackets in a folder's name are no pattern. what:
// the kind of file that is expected, for the message. Errors: 2 (none, a folder that cannot be read), 1; the list is empty
// then.
int file_match(FileList *list, const char *pattern, const char *what, Error *err);

void file_list_free(FileList *list);

#ifdef __cplusplus
}
#endif
#endif
