#include "loader/overlap.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

enum { PROBE_BYTES = 1 << 16 };

typedef struct {
    const DataFile *file;
    dev_t device;
    ino_t inode;
    off_t size;
} Identity;

static Identity identify(const DataFile *file) {
    struct stat status;
    if (stat(file->path, &status) != 0) return (Identity){.file = file}; // gone since it was opened
    return (Identity){file, status.st_dev, status.st_ino, status.st_size};
}

// identities [count], to be freed by the caller.
static Identity *identify_all(const DataFile *files, int count, Error *err) {
    Identity *identities = malloc((size_t)count * sizeof *identities + 1);
    if (!identities) fail_fault(err, "no memory for the list of %d files", count);
    for (int i = 0; identities && i < count; i++) identities[i] = identify(&files[i]);
    return identities;
}

static bool is_same_file(const Identity *a, const Identity *b) {
    return a->size && a->device == b->device && a->inode == b->inode;
}

// probe [2][PROBE_BYTES] = the file's first and last bytes.
static bool read_probe(uint8_t *probe, const Identity *id) {
    const size_t bytes = id->size < PROBE_BYTES ? (size_t)id->size : PROBE_BYTES;
    uint64_t size;
    int fd;
    if (file_open_read(id->file->path, &fd, &size, NULL)) return false;
    memset(probe, 0, 2 * (size_t)PROBE_BYTES);
    const bool read = size == (uint64_t)id->size && !file_read_at(fd, probe, bytes, 0, id->file->path, NULL) &&
                      !file_read_at(fd, probe + PROBE_BYTES, bytes, size - bytes, id->file->path, NULL);
    close(fd);
    return read;
}

static bool is_copy(const Identity *a, const Identity *b, uint8_t *probes) {
    const DataFile *x = a->file, *y = b->file;
    if (!a->size || a->size != b->size || x->num_tokens != y->num_tokens || x->num_rows != y->num_rows) return false;
    if (x->digest) return y->digest && strcmp(x->digest, y->digest) == 0;
    return read_probe(probes, a) && read_probe(probes + 2 * (size_t)PROBE_BYTES, b) &&
           memcmp(probes, probes + 2 * (size_t)PROBE_BYTES, 2 * (size_t)PROBE_BYTES) == 0;
}

static Overlap find_one(const Identity *train, int count, const Identity *val, uint8_t *probes) {
    for (int i = 0; i < count; i++) {
        const bool same = is_same_file(&train[i], val);
        if (same || is_copy(&train[i], val, probes)) return (Overlap){train[i].file, val->file, !same};
    }
    return (Overlap){0};
}

int overlap_find(const DataFile *train, int train_count, const DataFile *val, int val_count, Overlap *found,
                 Error *err) {
    Identity *identities = identify_all(train, train_count, err);
    uint8_t *probes = malloc(4 * (size_t)PROBE_BYTES);
    int code = identities && probes ? 0 : fail_fault(err, "no memory to compare files");
    *found = (Overlap){0};
    for (int i = 0; !code && !found->val && i < val_count; i++) {
        const Identity one = identify(&val[i]);
        *found = find_one(identities, train_count, &one, probes);
    }
    free(probes);
    free(identities);
    return code;
}

int overlap_refuse(const DataFile *train, int train_count, const DataFile *val, int val_count, Error *err) {
    Overlap found;
    int code = overlap_find(train, train_count, val, val_count, &found, err);
    if (code || !found.val) return code;
    return fail_input(err,
                      "%s: --val-data and --train-data both have it%s%s%s, expected validation data that are not "
                      "trained on: give --train-data a pattern that passes it by, such as 'DIR/train_*.bin'",
                      found.val->path, found.copy ? ", as " : "", found.copy ? found.train->path : "",
                      found.copy ? ", a file of the same content" : "");
}

static int compare_inodes(const void *a, const void *b) {
    const Identity *x = a, *y = b;
    if (x->device != y->device) return x->device < y->device ? -1 : 1;
    return x->inode < y->inode ? -1 : x->inode > y->inode;
}

int overlap_count_duplicates(const DataFile *files, int count, const char **first, const char **second) {
    Identity *identities = identify_all(files, count, NULL);
    int duplicates = 0;
    if (!identities) return 0;
    qsort(identities, (size_t)count, sizeof *identities, compare_inodes);
    for (int i = 1; i < count; i++) {
        if (!is_same_file(&identities[i - 1], &identities[i]) || duplicates++ > 0) continue;
        *first = identities[i - 1].file->path;
        *second = identities[i].file->path;
    }
    free(identities);
    return duplicates;
}
