#include "train/run_folder.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/path.h"
#include "checkpoint/run_store.h"
#include "checkpoint/store.h"
#include "run/import.h"

// A checkpoint newer than the resumed one is either damaged, and kept under another name, or the user named an older one and
// allowed with --overwrite to drop it.
static int put_away(const Resume *resume, const char *store, const char *name, Error *err) {
    char path[PATH_MAX], aside[PATH_MAX];
    int code = path_join(path, store, name, err);
    if (code) return code;
    if (resume->chosen) {
        folder_remove(path);
        return 0;
    }
    if (snprintf(aside, sizeof aside, "%s.broken", path) >= PATH_MAX)
        return fail_input(err, "%.200s...: path too long", path);
    folder_remove(aside);
    return rename(path, aside) == 0 ? 0 : fail_fault(err, "%s: rename to %s failed", path, aside);
}

// The checkpoint that is resumed becomes the newest.
static int make_newest(const char *folder, const Resume *resume, Error *err) {
    char store[PATH_MAX], name[STORE_NAME_SIZE];
    StoreEntry *entries = NULL;
    int count = 0, code = path_join(store, folder, "checkpoints", err);
    if (code) return code;
    store_clean(store);
    store_name(name, resume->step);
    code = store_set_latest(store, name, err);
    if (!code) code = store_list(&entries, &count, store, err);
    for (int i = 0; !code && i < count && entries[i].step > resume->step; i++)
        code = put_away(resume, store, entries[i].name, err);
    free(entries);
    return code ? code : run_store_show(folder, err);
}

static void log_beginning(Log *log, const Resume *resume) {
    const char *folder = resume->folder, *slash = strrchr(folder, '/');
    const cJSON *entry;
    if (!folder[0]) return;
    cJSON_ArrayForEach(entry, resume->passed_over) {
        log_passed_over(log, resume->step, cJSON_GetObjectItem(entry, "name")->valuestring,
                        cJSON_GetObjectItem(entry, "reason")->valuestring);
    }
    log_resumed(log, resume->step, resume->own && slash ? slash + 1 : folder);
}

static int begin_log(Run *run, const Resume *resume, int made_again, Error *err) {
    char path[PATH_MAX];
    int code = path_join(path, run->options.output, "log.jsonl", err);
    if (!code)
        code =
            resume->own ? log_resume(&run->log, path, resume->step, made_again, err) : log_open(&run->log, path, err);
    if (!code) log_beginning(&run->log, resume);
    return code;
}

static int copy_tokenizer(const char *folder, const char *path, Error *err) {
    int code = run_dir_copy(folder, path, "tokenizer.json", err);
    return code ? code : run_dir_copy_beside(folder, path, "tokenizer_config.json", err);
}

// A tokenizer that a replaced run left must not go into the checkpoints of a run that has none.
static int remove_tokenizer(const char *folder, Error *err) {
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json"};
    char path[PATH_MAX];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int code = path_join(path, folder, names[i], err);
        if (code) return code;
        if (unlink(path) != 0 && errno != ENOENT) return fail_fault(err, "%s: removing it: %s", path, strerror(errno));
    }
    return 0;
}

int run_folder_begin(Run *run, const Resume *resume, const TrainState *state, const TrainData *data, const Task *task,
                     Error *err) {
    char path[PATH_MAX];
    const char *folder = run->options.output;
    int code = resume->own ? make_newest(folder, resume, err) : run_store_set_aside(folder, err);
    if (!code) code = path_join(path, folder, "trainer_options.json", err);
    if (!code) code = options_save(&run->options, path, err);
    if (!code)
        code = data->tokenizer ? copy_tokenizer(folder, data->tokenizer_path, err) : remove_tokenizer(folder, err);
    if (!code) code = import_files(folder, task->origin, err);
    if (!code) code = task_copy_files(task->kind, run, data, err);
    if (!code) code = run_dir_copy_beside(folder, data->train_shard, "meta.json", err);
    return code ? code : begin_log(run, resume, state->due, err);
}
