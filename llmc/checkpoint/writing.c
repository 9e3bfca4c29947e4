#include "checkpoint/writing.h"

#include <limits.h>
#include <stdio.h>

#include "base/new_file.h"
#include "base/path.h"

int writing_note(Writing *w, const char *name, const Digest *digest, uint64_t bytes, Error *err) {
    w->bytes += bytes;
    return checksums_add(&w->sums, name, digest, err);
}

int writing_put(Writing *w, const char *last, const char *data, size_t bytes, Error *err) {
    char path[PATH_MAX], name[128];
    NewFile file;
    snprintf(name, sizeof name, "%s%s", w->inside, last);
    int code = path_join(path, w->folder, name, err);
    if (!code) code = file_begin_plain(&file, path, err);
    if (code) return code;
    code = file_append(&file, data, bytes, err);
    if (code) {
        file_discard(&file);
        return code;
    }
    Digest digest = file_digest(&file);
    code = file_commit(&file, err);
    return code ? code : writing_note(w, name, &digest, bytes, err);
}
