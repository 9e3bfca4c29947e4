// Weights in, and the output folder becomes this run's.
#include "model/llama3_weights.h"
#include "train/trainer_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/path.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/padding.h"
#include "checkpoint/run_store.h"
#include "checkpoint/store.h"
#include "run/import.h"

static int load(Trainer *t, Error *err) {
    if (t->run.options.lora_rank) return trainer_load_adapters(t, err);
    if (t->resume.folder[0]) return checkpoint_read_training(t->resume.folder, t->model, err);
    if (t->task.new_head)
        return checkpoint_read_language_model(t->run.options.init_from, t->model, (uint64_t)t->run.options.seed, err);
    if (t->run.options.init_from) return checkpoint_read_weights(t->run.options.init_from, t->model, err);
    llama3_init_weights(t->model, (uint64_t)t->run.options.seed);
    return 0;
}

int trainer_load(Trainer *t, Error *err) {
    progress_begin(&t->run.progress, stdout, t->run.options.log_every);
    int code = team_agree(&t->run.team, load(t, err), err);
    if (!code) code = trainer_compare_weights(t, "weights to begin with", err);
    return code ? code : trainer_prepare_reference(t, err);
}

// A newer checkpoint is either damaged, and kept under a name that nobody takes for a whole one's, or the
// user named an older one and with --overwrite gave it up.
static int put_away(const Trainer *t, const char *store, const char *name, Error *err) {
    char path[PATH_MAX], aside[PATH_MAX];
    int code = path_join(path, store, name, err);
    if (code) return code;
    if (t->resume.chosen) {
        folder_remove(path);
        return 0;
    }
    if (snprintf(aside, sizeof aside, "%s.broken", path) >= PATH_MAX)
        return fail_input(err, "%.200s...: path too long", path);
    folder_remove(aside);
    return rename(path, aside) == 0 ? 0 : fail_fault(err, "%s: rename to %s failed", path, aside);
}

// The checkpoint that is resumed becomes the newest.
static int make_newest(const Trainer *t, Error *err) {
    char store[PATH_MAX], name[STORE_NAME_SIZE];
    StoreEntry *entries = NULL;
    int count = 0, code = path_join(store, t->run.options.output, "checkpoints", err);
    if (code) return code;
    store_clean(store);
    store_name(name, t->state.step);
    code = store_set_latest(store, name, err);
    if (!code) code = store_list(&entries, &count, store, err);
    for (int i = 0; !code && i < count && entries[i].step > t->state.step; i++)
        code = put_away(t, store, entries[i].name, err);
    free(entries);
    return code ? code : run_store_show(t->run.options.output, err);
}

static void log_beginning(Trainer *t) {
    const char *folder = t->resume.folder, *slash = strrchr(folder, '/');
    const cJSON *entry;
    if (!folder[0]) return;
    cJSON_ArrayForEach(entry, t->resume.passed_over) {
        log_passed_over(&t->run.log, t->state.step, cJSON_GetObjectItem(entry, "name")->valuestring,
                        cJSON_GetObjectItem(entry, "reason")->valuestring);
    }
    log_resumed(&t->run.log, t->state.step, t->resume.own && slash ? slash + 1 : folder);
}

static int begin_log(Trainer *t, Error *err) {
    char path[PATH_MAX];
    int code = path_join(path, t->run.options.output, "log.jsonl", err);
    if (!code)
        code = t->resume.own ? log_resume(&t->run.log, path, t->state.step, t->state.due, err)
                             : log_open(&t->run.log, path, err);
    if (!code) log_beginning(t);
    return code;
}

static bool occurs(const void *trainer, int id) {
    const Trainer *t = trainer;
    return loader_has_token(t->data.train, (uint32_t)id) ||
           (t->data.val && loader_has_token(t->data.val, (uint32_t)id));
}

// What checkpoints of a reward model pad with, in the files of the output folder that they copy.
static int settle_padding(Trainer *t, Error *err) {
    if (t->run.options.task != TASK_REWARD) return 0;
    int code = padding_settle(&t->run.config, t->run.options.output, occurs, t, err);
    if (!code && t->run.config.pad_token_id < 0)
        printf("padding   none: the tokenizer has no special token to spare, transformers scores one text at a time\n");
    return code;
}

static int copy_tokenizer(const Trainer *t, Error *err) {
    int code = run_dir_copy(t->run.options.output, t->data.tokenizer_path, "tokenizer.json", err);
    return code ? code
                : run_dir_copy_beside(t->run.options.output, t->data.tokenizer_path, "tokenizer_config.json", err);
}

// What a run that is replaced has left must not go into the checkpoints of one that has none.
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

static int begin(Trainer *t, Error *err) {
    char path[PATH_MAX];
    const char *folder = t->run.options.output;
    int code = t->resume.own ? make_newest(t, err) : run_store_set_aside(folder, err);
    if (!code) code = path_join(path, folder, "trainer_options.json", err);
    if (!code) code = options_save(&t->run.options, path, err);
    if (!code) code = t->data.tokenizer ? copy_tokenizer(t, err) : remove_tokenizer(folder, err);
    if (!code) code = import_files(folder, t->task.origin, err);
    if (!code && t->run.options.task != TASK_PRETRAIN) code = import_chat_files(folder, t->data.train_shard, err);
    if (!code) code = settle_padding(t, err);
    if (!code) code = run_dir_copy_beside(folder, t->data.train_shard, "meta.json", err);
    return code ? code : begin_log(t, err);
}

int trainer_begin(Trainer *t, Error *err) {
    int code = team_follow(&t->run.team, team_leads(&t->run.team) ? begin(t, err) : 0, err);
    t->pace.began = clock_seconds();
    return code;
}
