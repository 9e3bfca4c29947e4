// Evaluations while a run goes on.
#include "train/trainer_internal.h"

#include "train/process.h"

int trainer_open_tasks(Trainer *t, Error *err) {
    if (!t->options.eval_tasks) return 0;
    return evaltasks_open(&t->tasks, t->options.eval_tasks, (int)t->options.seq_len, t->config.vocab_size,
                          tokenizer_sha256(t->tokenizer), err);
}

static bool due(const Trainer *t) {
    const int64_t every = t->options.eval_tasks_every;
    if (!t->tasks || process_stop_requested()) return false;
    return t->step >= t->options.steps || (every > 0 && t->step % every == 0);
}

int trainer_show_tasks(Trainer *t, Error *err) {
    for (int i = 0; due(t) && i < evaltasks_count(t->tasks); i++) {
        EvalResult result;
        char text[256];
        int code =
            evaltasks_run(t->tasks, i, t->model, (int)t->options.batch_size, process_stop_requested, &result, err);
        if (code) return code;
        if (process_stop_requested()) return 0; // cut short: no result
        log_task(&t->log, t->step, evaltasks_name(t->tasks, i), &result);
        eval_describe(text, sizeof text, &result);
        progress_print(&t->progress, "step %lld: %s: %s", (long long)t->step, evaltasks_name(t->tasks, i), text);
    }
    return 0;
}
