// Weights in, the output folder's files, and the checkpoint out.
#include "train/trainer_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/checkpoint.h"
#include "train/run_dir.h"

int trainer_load(Trainer *t, Error *err) {
    if (t->options.init_from) return checkpoint_read_weights(t->options.init_from, t->model, err);
    llama3_init_weights(t->model, (uint64_t)t->options.seed);
    return 0;
}

int trainer_begin(Trainer *t, Error *err) {
    char path[PATH_MAX];
    const char *folder = t->options.output;
    int code = run_dir_path(path, folder, "trainer_options.json", err);
    if (!code) code = options_save(&t->options, path, err);
    if (!code) code = run_dir_copy(folder, t->tokenizer_path, "tokenizer.json", err);
    if (!code) code = run_dir_copy_beside(folder, t->tokenizer_path, "tokenizer_config.json", err);
    if (!code) code = run_dir_copy_beside(folder, t->train_shard, "meta.json", err);
    if (!code) code = run_dir_path(path, folder, "log.jsonl", err);
    if (!code) code = log_open(&t->log, path, err);
    progress_begin(&t->progress, stdout, t->options.log_every);
    t->began = trainer_now();
    return code;
}

static int save(Trainer *t, Error *err) {
    char store[PATH_MAX], state[64];
    snprintf(state, sizeof state, "{\"format_version\": %d, \"step\": %lld}\n", CHECKPOINT_FORMAT_VERSION,
             (long long)t->step);
    CheckpointContent content = {.store = store,
                                 .step = t->step,
                                 .config = &t->config,
                                 .table = llama3_parameters(t->model),
                                 .model = t->model,
                                 .state = state,
                                 .tokenizer_folder = t->options.output,
                                 .keep_last = 1};
    int code = run_dir_path(store, t->options.output, "checkpoints", err);
    return code ? code : checkpoint_write(&content, NULL, err);
}

int trainer_save(Trainer *t, Error *err) {
    char path[PATH_MAX], span[24];
    progress_end(&t->progress); // the last step's line stays
    progress_span(span, sizeof span, trainer_now() - t->began);
    progress_print(&t->progress, "%s after %lld steps, %s",
                   t->step == t->options.steps ? "done" : "stopped by a signal", (long long)t->step, span);
    if (!t->options.save) return 0;
    int code = save(t, err);
    if (!code) code = run_dir_path(path, t->options.output, "checkpoint", err);
    if (!code && symlink("checkpoints/latest", path) != 0 && errno != EEXIST)
        code = fail_fault(err, "%s: symlink: %s", path, strerror(errno));
    if (!code) progress_print(&t->progress, "checkpoint in %s", path);
    return code;
}
