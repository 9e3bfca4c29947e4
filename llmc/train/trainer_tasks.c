// Evaluations while a run goes on.
#include "train/trainer_internal.h"

#include "run/process.h"

int trainer_open_tasks(Trainer *t, Error *err) {
    if (!t->run.options.eval_tasks || !team_leads(&t->run.team)) return 0;
    return evaltasks_open(&t->tasks, t->run.options.eval_tasks, (int)t->run.options.seq_len, t->run.config.vocab_size,
                          tokenizer_sha256(t->data.tokenizer), err);
}

bool trainer_tasks_due(const Trainer *t) {
    const int64_t every = t->run.options.eval_tasks_every;
    return t->state.step >= t->run.options.steps || (every > 0 && t->state.step % every == 0);
}

// A signal to this rank cuts it short: then there is no result.
static int show_task(Trainer *t, int index, Error *err) {
    EvalResult result;
    char text[256];
    int code =
        evaltasks_run(t->tasks, index, t->model, (int)t->run.options.batch_size, process_stop_requested, &result, err);
    if (code || process_stop_requested()) return code;
    eval_log(&t->run.log, t->state.step, evaltasks_name(t->tasks, index), &result);
    eval_describe(text, sizeof text, &result);
    progress_print(&t->run.progress, "step %lld: %s: %s", (long long)t->state.step, evaltasks_name(t->tasks, index),
                   text);
    return 0;
}

// Rank 0 computes, the others wait.
int trainer_show_tasks(Trainer *t, Error *err) {
    int code = 0;
    for (int i = 0; !code && t->tasks && i < evaltasks_count(t->tasks) && !process_stop_requested(); i++)
        code = show_task(t, i, err);
    if (t->tasks && process_stop_requested()) t->state.due |= LOG_TASK; // rank 0 writes that down
    return team_follow(&t->run.team, code, err);
}
