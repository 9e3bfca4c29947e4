#include "checkpoint/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/path.h"
#include "checkpoint/checkpoint.h"

enum { STEP_DIGITS = 8 };
static const char prefix[] = "step_", temporary[] = ".tmp", old[] = ".old", latest[] = "latest";

void store_name(char name[STORE_NAME_SIZE], int64_t step) {
    snprintf(name, STORE_NAME_SIZE, "%s%0*lld", prefix, STEP_DIGITS, (long long)step);
}

// Is it a name that store_name gives, with `ending` after it? Then *step =.
static bool parse_name(const char *name, const char *ending, int64_t *step) {
    char expected[STORE_NAME_SIZE + 8], *end;
    if (strncmp(name, prefix, strlen(prefix)) != 0) return false;
    errno = 0;
    *step = strtoll(name + strlen(prefix), &end, 10);
    if (errno != 0 || *step < 0) return false;
    store_name(expected, *step);
    strcat(expected, ending);
    return strcmp(name, expected) == 0;
}

// ---- listing

static int compare_steps(const void *a, const void *b) {
    int64_t x = ((const StoreEntry *)a)->step, y = ((const StoreEntry *)b)->step;
    return x < y ? 1 : x > y ? -1 : 0;
}

static bool is_folder(const char *store, const char *name) {
    char path[PATH_MAX];
    struct stat status;
    return path_join(path, store, name, NULL) == 0 && lstat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

static int add_entry(StoreEntry **entries, int *count, int64_t step, const char *store, Error *err) {
    StoreEntry *grown = realloc(*entries, ((size_t)*count + 1) * sizeof *grown);
    if (!grown) return fail_fault(err, "%s: no memory for the list of checkpoints", store);
    grown[*count].step = step;
    store_name(grown[*count].name, step);
    *entries = grown;
    ++*count;
    return 0;
}

// Checkpoints whose names have that ending.
static int list(StoreEntry **out, int *count, const char *store, const char *ending, Error *err) {
    *out = NULL;
    *count = 0;
    DIR *folder = opendir(store);
    if (!folder) return errno == ENOENT ? 0 : file_fail_open(err, store, errno);
    int code = 0;
    for (struct dirent *item = readdir(folder); item && !code; item = readdir(folder)) {
        int64_t step;
        if (parse_name(item->d_name, ending, &step) && is_folder(store, item->d_name))
            code = add_entry(out, count, step, store, err);
    }
    closedir(folder);
    if (code) {
        free(*out);
        *out = NULL;
        *count = 0;
        return code;
    }
    if (*count) qsort(*out, (size_t)*count, sizeof **out, compare_steps);
    return 0;
}

int store_list(StoreEntry **out, int *count, const char *store, Error *err) { return list(out, count, store, "", err); }

int store_newest_whole(char path[PATH_MAX], const char *store, StoreReport report, void *context, Error *err) {
    StoreEntry *entries;
    int count, code = list(&entries, &count, store, "", err);
    for (int i = 0; !code && i < count; i++) {
        Error reason = {0};
        code = path_join(path, store, entries[i].name, err);
        if (code) break;
        if (checkpoint_verify(path, &reason) == 0) {
            free(entries);
            return 0;
        }
        if (report) report(context, path, reason.message);
    }
    free(entries);
    path[0] = 0;
    return code;
}

// ---- names

static int fail_rename(Error *err, const char *from, const char *to) {
    return fail_fault(err, "%s: rename to %s: %s", from, to, strerror(errno));
}

// For file systems that cannot exchange two names: for a moment the old folder stands under the name `aside` alone.
static int exchange_in_steps(const char *made, const char *path, const char *aside, Error *err) {
    folder_remove(aside);
    if (rename(path, aside) != 0) return fail_rename(err, path, aside);
    if (rename(made, path) != 0) {
        int code = fail_rename(err, made, path);
        rename(aside, path);
        return code;
    }
    return rename(aside, made) == 0 ? 0 : fail_rename(err, aside, made);
}

int store_exchange(const char *made, const char *path, const char *aside, Error *err) {
    if (rename(made, path) == 0) return 0; // there was nothing, or an empty folder
    if (errno != ENOTEMPTY && errno != EEXIST) return fail_rename(err, made, path);
    if (renameat2(AT_FDCWD, made, AT_FDCWD, path, RENAME_EXCHANGE) == 0) return 0;
    if (errno != EINVAL && errno != ENOSYS) return fail_rename(err, made, path);
    return exchange_in_steps(made, path, aside, err);
}

int store_take_name(const char *store, const char *made, const char *name, Error *err) {
    char path[PATH_MAX], aside[PATH_MAX];
    int code = path_join(path, store, name, err);
    if (code) return code;
    // store_clean finds it there, should the program end between two steps
    if (snprintf(aside, sizeof aside, "%s%s", path, old) >= PATH_MAX) return fail_input(err, "%s: path too long", path);
    code = store_exchange(made, path, aside, err);
    if (!code) code = folder_sync(store, err);
    if (code) return code;
    folder_remove(made); // what was there, if anything: it has the other's name now
    return 0;
}

int store_set_latest(const char *store, const char *name, Error *err) {
    char link[PATH_MAX], fresh[PATH_MAX];
    int code = path_join(link, store, latest, err);
    if (!code) code = path_join(fresh, store, "latest.tmp", err);
    if (code) return code;
    unlink(fresh);
    if (symlink(name, fresh) != 0) return fail_fault(err, "%s: symlink: %s", fresh, strerror(errno));
    if (rename(fresh, link) != 0) {
        code = fail_rename(err, fresh, link);
        unlink(fresh);
        return code;
    }
    return folder_sync(store, err);
}

// ---- removing

void store_remove(const char *store, const char *name) {
    char path[PATH_MAX], going[PATH_MAX];
    if (path_join(path, store, name, NULL) || snprintf(going, sizeof going, "%s%s", path, temporary) >= PATH_MAX)
        return;
    folder_remove(going);
    if (rename(path, going) == 0) folder_remove(going);
}

int store_expendable(StoreEntry **out, int *count, const char *store, int64_t whole_step, int64_t keep_every,
                     Error *err) {
    StoreEntry *all;
    int listed, whole = 0, code = store_list(&all, &listed, store, err);
    *out = all;
    *count = 0;
    if (code) return code;
    while (whole < listed && all[whole].step != whole_step) whole++;
    for (int i = whole + 1; i < listed; i++)
        if (keep_every == 0 || all[i].step % keep_every != 0) all[(*count)++] = all[i];
    return 0;
}

void store_prune(const char *store, const char *name, int keep_last, int64_t keep_every) {
    StoreEntry *entries;
    int count;
    if (keep_last == 0 || store_list(&entries, &count, store, NULL)) return;
    for (int i = keep_last; i < count; i++) {
        bool kept = strcmp(entries[i].name, name) == 0 || (keep_every > 0 && entries[i].step % keep_every == 0);
        if (!kept) store_remove(store, entries[i].name);
    }
    free(entries);
}

static void remove_ending(const char *store, const StoreEntry *entry, const char *ending) {
    char name[STORE_NAME_SIZE + 8], path[PATH_MAX];
    snprintf(name, sizeof name, "%s%s", entry->name, ending);
    if (!path_join(path, store, name, NULL)) folder_remove(path);
}

// A replacement that was cut short between its two steps: the old one gets its name back.
static void restore_or_remove(const char *store, const StoreEntry *entry) {
    char path[PATH_MAX], aside[PATH_MAX];
    if (path_join(path, store, entry->name, NULL) || snprintf(aside, sizeof aside, "%s%s", path, old) >= PATH_MAX)
        return;
    if (is_folder(store, entry->name) || rename(aside, path) != 0) folder_remove(aside);
}

void store_clean(const char *store) {
    StoreEntry *entries;
    int count;
    char link[PATH_MAX];
    if (list(&entries, &count, store, old, NULL) == 0) {
        for (int i = 0; i < count; i++) restore_or_remove(store, &entries[i]);
        free(entries);
    }
    if (list(&entries, &count, store, temporary, NULL) == 0) {
        for (int i = 0; i < count; i++) remove_ending(store, &entries[i], temporary);
        free(entries);
    }
    if (!path_join(link, store, "latest.tmp", NULL)) unlink(link);
}
