// The writing half of checkpoint.h: room for a checkpoint, its folder, and the steps in which it becomes whole.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/file.h"
#include "base/path.h"
#include "checkpoint/parts.h"
#include "checkpoint/store.h"
#include "checkpoint/write_tensors.h"
#include "checkpoint/write_texts.h"
#include "loader/tokenizer_files.h"

enum { SPARE_BYTES = 4 << 20 }; // for headers, texts and the file system's own needs

// ---- the folder

static int make_folder(const char *path, Error *err) {
    return mkdir(path, 0777) == 0 ? 0 : file_fail_open(err, path, errno);
}

static int make_store(const char *store, Error *err) {
    if (mkdir(store, 0777) == 0) return folder_sync_parent(store, err);
    return errno == EEXIST ? 0 : file_fail_open(err, store, errno);
}

// ---- room for it

static uint64_t tokenizer_bytes(const CheckpointContent *c) {
    uint64_t bytes = 0;
    for (int i = 0; i < TOKENIZER_FILES; i++) {
        char path[PATH_MAX];
        struct stat status;
        if (path_join(path, c->tokenizer_folder, tokenizer_files[i], NULL) == 0 && stat(path, &status) == 0)
            bytes += (uint64_t)status.st_size;
    }
    return bytes;
}

// Without what it needs to spare.
static uint64_t bytes_of(const CheckpointContent *c) {
    const size_t arrays = c->average ? TRAINING_ARRAYS : TRAINING_AVERAGE, models = c->averaged ? 2 : 1;
    const size_t saved = c->table->lora_rank ? c->table->num_trained : c->table->num_parameters;
    uint64_t bytes =
        (uint64_t)saved * models * sizeof(floatX) + (uint64_t)c->table->num_trained * arrays * sizeof(float);
    return bytes + models * tokenizer_bytes(c);
}

static int read_free(uint64_t *bytes, const CheckpointContent *c, Error *err) {
    struct statvfs disk;
    if (statvfs(c->store, &disk) != 0) return fail_fault(err, "%s: statvfs: %s", c->store, strerror(errno));
    *bytes = (uint64_t)disk.f_bavail * disk.f_frsize;
    return 0;
}

// Bytes that the old checkpoints hold.
static uint64_t bytes_held(const CheckpointContent *c, const StoreEntry *old, int count) {
    uint64_t bytes = 0;
    for (int i = 0; i < count; i++) {
        char path[PATH_MAX];
        if (path_join(path, c->store, old[i].name, NULL) == 0) bytes += folder_bytes(path);
    }
    return bytes;
}

// Removes so many of the old checkpoints, the oldest first, that `needed` bytes are free; none where all of them are not
// enough. *held: bytes that they have.
static int make_room(const CheckpointContent *c, uint64_t needed, uint64_t *free_bytes, uint64_t *held, Error *err) {
    StoreEntry *old = NULL;
    int count = 0, code = store_expendable(&old, &count, c->store, c->whole_step, c->keep_every, err);
    *held = code ? 0 : bytes_held(c, old, count);
    for (int i = count - 1; !code && i >= 0 && *free_bytes + *held >= needed && *free_bytes < needed; i--) {
        store_remove(c->store, old[i].name);
        if (c->dropped) ++*c->dropped;
        code = read_free(free_bytes, c, err);
    }
    free(old);
    return code;
}

static int fail_space(const CheckpointContent *c, uint64_t needed, uint64_t free_bytes, uint64_t held, Error *err) {
    char more[96] = "";
    if (held > 0) snprintf(more, sizeof more, ", %.1f MiB in older checkpoints that may go", (double)held / 1048576.0);
    if (c->keep_last == 0) snprintf(more, sizeof more, ", and all older checkpoints are to be kept");
    return fail_fault(err,
                      "%s: no space for a checkpoint: %.1f MiB needed, %.1f MiB free%s (of those needed %.1f MiB "
                      "are to spare, for headers, small files and the file system)",
                      c->store, (double)needed / 1048576.0, (double)free_bytes / 1048576.0, more,
                      (double)SPARE_BYTES / 1048576.0);
}

static int check_space(const CheckpointContent *c, Error *err) {
    const uint64_t needed = bytes_of(c) + SPARE_BYTES;
    uint64_t free_bytes = 0, held = 0;
    if (c->dropped) *c->dropped = 0;
    int code = read_free(&free_bytes, c, err);
    if (!code && free_bytes < needed && c->keep_last > 0) code = make_room(c, needed, &free_bytes, &held, err);
    if (code || free_bytes >= needed) return code;
    return fail_space(c, needed, free_bytes, held, err);
}

// ---- the steps of a write

// folder = where the checkpoint is made.
static int made_folder(char folder[PATH_MAX], const CheckpointContent *c, Error *err) {
    char name[STORE_NAME_SIZE], made[STORE_NAME_SIZE + 8];
    store_name(name, c->step);
    snprintf(made, sizeof made, "%s.tmp", name);
    return path_join(folder, c->store, made, err);
}

static int make_folders(const CheckpointContent *c, Error *err) {
    char folder[PATH_MAX], trainer[PATH_MAX];
    int code = made_folder(folder, c, err);
    if (!code) code = path_join(trainer, folder, "trainer", err);
    if (!code) code = make_folder(folder, err);
    return code ? code : make_folder(trainer, err);
}

int checkpoint_begin(const CheckpointContent *content, Error *err) {
    int code = make_store(content->store, err);
    if (code) return code;
    store_clean(content->store);
    code = check_space(content, err);
    if (!code) code = make_folders(content, err);
    if (code) store_clean(content->store);
    return code;
}

static int write_part(Writing *w, Error *err) {
    int code = w->content->part == 0 ? write_texts(w, err) : 0;
    if (!code) code = write_parameters(w, err);
    return code ? code : write_training(w, err);
}

int checkpoint_write_part(const CheckpointContent *content, char **lines, uint64_t *bytes, Error *err) {
    CheckpointContent one = *content;
    char folder[PATH_MAX];
    if (one.parts == 0) one.parts = 1;
    Writing w = {.content = &one, .folder = folder, .inside = ""};
    *lines = NULL;
    int code = made_folder(folder, &one, err);
    if (!code) code = write_part(&w, err);
    if (bytes) *bytes = w.bytes;
    if (!code && !w.sums.text) w.sums.text = calloc(1, 1); // it wrote nothing
    if (!code && !w.sums.text) code = fail_fault(err, "%s: no memory for its checksums", folder);
    if (code)
        checksums_free(&w.sums);
    else
        *lines = w.sums.text;
    return code;
}

// The mean over steps, as a model.
static int add_averaged(Writing *w, Error *err) {
    char folder[PATH_MAX];
    if (!w->content->averaged) return 0;
    int code = path_join(folder, w->folder, "averaged", err);
    if (!code) code = make_folder(folder, err);
    if (!code) code = write_model_texts(w, err);
    if (!code)
        code = write_averaged(w, w->content->table->lora_rank ? "averaged/" ADAPTER_FILE : "averaged/model.safetensors",
                              err);
    return code ? code : folder_sync(folder, err);
}

static int settle(const CheckpointContent *c, const char *folder, const char *lines, uint64_t *bytes, Error *err) {
    char trainer[PATH_MAX];
    Writing w = {.content = c, .folder = folder, .inside = "averaged/", .sums = {strdup(lines), strlen(lines)}};
    if (!w.sums.text) return fail_fault(err, "%s: no memory for its checksums", folder);
    int code = path_join(trainer, folder, "trainer", err);
    if (!code) code = add_averaged(&w, err);
    if (!code) code = checksums_write(&w.sums, folder, err);
    if (bytes) *bytes = w.bytes + w.sums.length;
    checksums_free(&w.sums);
    if (!code) code = folder_sync(trainer, err);
    return code ? code : folder_sync(folder, err);
}

int checkpoint_commit(const CheckpointContent *content, const char *lines, uint64_t *bytes, Error *err) {
    char folder[PATH_MAX], name[STORE_NAME_SIZE];
    store_name(name, content->step);
    int code = made_folder(folder, content, err);
    if (!code) code = settle(content, folder, lines, bytes, err);
    if (!code) code = store_take_name(content->store, folder, name, err);
    if (code) {
        store_clean(content->store);
        return code;
    }
    code = store_set_latest(content->store, name, err);
    if (!code) store_prune(content->store, name, content->keep_last, content->keep_every);
    return code;
}

void checkpoint_abandon(const CheckpointContent *content) { store_clean(content->store); }

int checkpoint_write(const CheckpointContent *content, uint64_t *bytes, Error *err) {
    char *lines = NULL;
    uint64_t written = 0, more = 0;
    int code = checkpoint_begin(content, err);
    if (code) return code;
    code = checkpoint_write_part(content, &lines, &written, err);
    if (code)
        checkpoint_abandon(content);
    else
        code = checkpoint_commit(content, lines, &more, err);
    if (bytes) *bytes = written + more;
    free(lines);
    return code;
}
