#include "checkpoint/run_store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/path.h"
#include "checkpoint/store.h"

// path becomes a link to target, at once; what had that name is removed.
static int replace_by_link(const char *path, const char *target, Error *err) {
    char fresh[PATH_MAX];
    if (snprintf(fresh, sizeof fresh, "%s.tmp", path) >= PATH_MAX)
        return fail_input(err, "%.200s...: path too long", path);
    folder_remove(fresh);
    if (symlink(target, fresh) != 0) return fail_fault(err, "%s: symlink: %s", fresh, strerror(errno));
    if (rename(fresh, path) == 0) return folder_sync_parent(path, err);
    // a folder in the place of the link
    if (renameat2(AT_FDCWD, fresh, AT_FDCWD, path, RENAME_EXCHANGE) != 0) {
        int code = fail_fault(err, "%s: rename to %s: %s", fresh, path, strerror(errno));
        unlink(fresh);
        return code;
    }
    folder_remove(fresh);
    return folder_sync_parent(path, err);
}

static int link_checkpoint(const char *folder, const char *target, Error *err) {
    char path[PATH_MAX], found[PATH_MAX];
    int code = path_join(path, folder, "checkpoint", err);
    if (code) return code;
    ssize_t length = readlink(path, found, sizeof found - 1);
    found[length > 0 ? length : 0] = 0;
    return strcmp(found, target) == 0 ? 0 : replace_by_link(path, target, err);
}

int run_store_show(const char *folder, Error *err) {
    char replaced[PATH_MAX];
    int code = link_checkpoint(folder, "checkpoints/latest", err);
    if (!code) code = path_join(replaced, folder, "checkpoints.replaced", err);
    if (!code) folder_remove(replaced);
    return code;
}

// Whether `checkpoint` is there but is no link of ours: a model that somebody put there.
static bool is_model(const char *folder) {
    char path[PATH_MAX];
    struct stat status;
    return path_join(path, folder, "checkpoint", NULL) == 0 && lstat(path, &status) == 0 && !S_ISLNK(status.st_mode);
}

int run_store_set_aside(const char *folder, Error *err) {
    char store[PATH_MAX], replaced[PATH_MAX];
    StoreEntry *entries = NULL;
    int count = 0, code = path_join(store, folder, "checkpoints", err);
    if (!code) code = path_join(replaced, folder, "checkpoints.replaced", err);
    if (!code) code = store_list(&entries, &count, store, err);
    free(entries);
    // a run that was killed before its first checkpoint leaves those that it was to replace
    if (code || count == 0) return code;
    folder_remove(replaced);
    if (rename(store, replaced) != 0) return fail_fault(err, "%s: rename to %s: %s", store, replaced, strerror(errno));
    return is_model(folder) ? 0 : link_checkpoint(folder, "checkpoints.replaced/latest", err);
}
