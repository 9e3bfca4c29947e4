#include "base/match.h"

#include <errno.h>
#include <glob.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct {
    FileList *list;
    const char *pattern;
    Error *err;
    const char *missed; // the first part of the pattern that nothing matched, and how long it is
    size_t missed_length;
} Match;

static int fail_memory(const Match *m) { return fail_fault(m->err, "%s: no memory for the list of files", m->pattern); }

// a with the first `length` bytes of b after it; in a, what a pattern would read as more than itself is escaped if asked.
static char *join(const char *a, bool escape, const char *b, size_t length) {
    char *text = malloc(2 * strlen(a) + length + 1), *end = text;
    if (!text) return NULL;
    for (; *a; a++) {
        if (escape && strchr("*?[]\\", *a)) *end++ = '\\';
        *end++ = *a;
    }
    memcpy(end, b, length);
    end[length] = 0;
    return text;
}

static int add(const Match *m, const char *path) {
    FileList *list = m->list;
    char **grown = realloc(list->paths, (list->count + 1) * sizeof *grown);
    if (grown) list->paths = grown;
    char *copy = grown ? strdup(path) : NULL;
    if (!copy) return fail_memory(m);
    list->paths[list->count++] = copy;
    return 0;
}

static int expand(Match *m, const char *found, const char *rest); // found: a path that is there, rest: to go on with

// found has the slashes that follow it in the pattern.
static int go_on(Match *m, const char *found, const char *rest) {
    const size_t slashes = strspn(rest, "/");
    char *path = join(found, false, rest, slashes);
    int code = path ? expand(m, path, rest + slashes) : fail_memory(m);
    free(path);
    return code;
}

// The part of `rest` as a pattern.
static int expand_pattern(Match *m, const char *found, const char *rest, size_t length) {
    glob_t matches = {0};
    char *pattern = join(found, true, rest, length);
    const int result = pattern ? glob(pattern, GLOB_ERR | GLOB_NOSORT, NULL, &matches) : GLOB_NOSPACE;
    int code = 0;
    if (result == GLOB_NOMATCH && !m->missed_length) {
        m->missed = rest;
        m->missed_length = length;
    } else if (result == GLOB_ABORTED)
        code = fail_input(m->err, "%s: its folder cannot be read: %s", m->pattern, strerror(errno));
    else if (result == GLOB_NOSPACE)
        code = fail_memory(m);
    for (size_t i = 0; !code && i < matches.gl_pathc; i++) code = go_on(m, matches.gl_pathv[i], rest + length);
    globfree(&matches);
    free(pattern);
    return code;
}

static int expand(Match *m, const char *found, const char *rest) {
    struct stat status;
    if (!*rest) return add(m, found);
    const size_t length = strcspn(rest, "/");
    char *literal = join(found, false, rest, length);
    if (!literal) return fail_memory(m);
    int code = length == 0 || lstat(literal, &status) == 0 ? go_on(m, literal, rest + length)
                                                           : expand_pattern(m, found, rest, length);
    free(literal);
    return code;
}

static bool missed_has(const Match *m, char sign) { return memchr(m->missed, sign, m->missed_length) != NULL; }

static int fail_none(const Match *m, const char *what) {
    const bool folder = m->missed[m->missed_length] == '/';
    const int length = m->missed_length < 200 ? (int)m->missed_length : 200;
    const char *hint = "";
    if (missed_has(m, '[')) hint = " (no such name is there, and as a pattern [ab] is one character, a or b)";
    if (m->missed == m->pattern && *m->pattern == '~') hint = " (in quotes ~ is not your home folder: $HOME is)";
    return fail_input(m->err, "%s: no file matches, expected at least one %s%s%.*s%s", m->pattern, what,
                      folder ? ": there is no folder " : "", folder ? length : 0, m->missed, hint);
}

static int compare_paths(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

int file_match(FileList *list, const char *pattern, const char *what, Error *err) {
    Match m = {.list = list, .pattern = pattern, .err = err, .missed = pattern};
    *list = (FileList){0};
    int code = expand(&m, "", pattern);
    if (!code && !list->count) code = fail_none(&m, what);
    if (code) file_list_free(list);
    // glob's own order depends on the user's language
    if (list->count) qsort(list->paths, list->count, sizeof *list->paths, compare_paths);
    return code;
}

void file_list_free(FileList *list) {
    for (size_t i = 0; i < list->count; i++) free(list->paths[i]);
    free(list->paths);
    *list = (FileList){0};
}
