#include "base/path.h"

#include <stdio.h>
#include <string.h>

static int check_length(int length, const char *begin, Error *err) {
    if (length >= 0 && length < PATH_MAX) return 0;
    return fail_input(err, "%.200s...: expected a path of at most %d bytes", begin, PATH_MAX - 1);
}

int path_join(char path[PATH_MAX], const char *folder, const char *name, Error *err) {
    const size_t length = strlen(folder);
    const char *slash = length > 0 && folder[length - 1] == '/' ? "" : "/";
    return check_length(snprintf(path, PATH_MAX, "%s%s%s", folder, slash, name), folder, err);
}

int path_beside(char path[PATH_MAX], const char *file, const char *name, Error *err) {
    const char *slash = strrchr(file, '/');
    return check_length(snprintf(path, PATH_MAX, "%.*s%s", slash ? (int)(slash - file) + 1 : 0, file, name), file, err);
}
