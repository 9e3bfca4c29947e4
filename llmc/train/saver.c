// Checkpoints: every so many steps in the background, and at the end.
#include "train/trainer_internal.h"

#include <cjson/cJSON.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/path.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/run_store.h"
#include "checkpoint/store.h"
#include "ranks/watchdog.h"
#include "run/process.h"

int trainer_prepare_saving(Trainer *t, Error *err) {
    if (!t->run.options.save || !t->run.options.save_every || !trainer_writes_part(t)) return 0;
    int code = snapshot_create(&t->saver.snapshot, t->model, err);
    return code ? code : writer_create(&t->saver.writer, err);
}

int trainer_describe_checkpoint(const Trainer *t, CheckpointContent *content, char store[PATH_MAX], char **state,
                                Error *err) {
    int code = path_join(store, t->run.options.output, "checkpoints", err);
    if (code) return code;
    *state = trainer_state_text(t);
    if (!*state) return fail_fault(err, "out of memory");
    *content = (CheckpointContent){.store = store,
                                   .step = t->state.step,
                                   .config = &t->run.config,
                                   .table = llama3_parameters(t->model),
                                   .part = t->run.team.size > 1 ? t->run.team.rank : 0,
                                   .parts = t->run.team.size > 1 ? t->run.parallel.shards : 1,
                                   .state = *state,
                                   .base = t->state.identity.base_model,
                                   .tokenizer_folder = t->run.options.output,
                                   .keep_last = (int)t->run.options.keep_last,
                                   .keep_every = t->run.options.keep_every,
                                   .average = t->run.options.average_from > 0,
                                   .averaged = t->state.average_samples > 0,
                                   .whole_step = t->saver.saved_step ? t->saver.saved_step : t->saver.first_step};
    return 0;
}

// ---- what became of a write

static void report_failure(Trainer *t, int64_t step, const char *reason) {
    log_checkpoint_failed(&t->run.log, step, reason);
    progress_end(&t->run.progress);
    if (t->saver.saved_step)
        error_print("no checkpoint of step %lld: %s; training goes on, the newest checkpoint is that of step %lld",
                    (long long)step, reason, (long long)t->saver.saved_step);
    else
        error_print("no checkpoint of step %lld: %s; training goes on, there is no checkpoint yet", (long long)step,
                    reason);
}

static void report_whole(Trainer *t, const WriterResult *result) {
    char name[STORE_NAME_SIZE], size[16];
    Error err = {0};
    store_name(name, result->step);
    t->saver.saved_step = result->step;
    t->guard.rollbacks = 0;
    if (!team_leads(&t->run.team)) return;
    log_checkpoint(&t->run.log, result->step, name, t->saver.waited, result->seconds, result->bytes);
    progress_count(size, sizeof size, (double)result->bytes);
    progress_print(&t->run.progress, "step %lld: checkpoint of %sB written in %.2f s, training waited %.2f s",
                   (long long)result->step, size, result->seconds, t->saver.waited);
    if (t->saver.dropped)
        progress_print(&t->run.progress,
                       "step %lld: the disk has no room for one more: %d older checkpoint%s went before",
                       (long long)result->step, t->saver.dropped, t->saver.dropped == 1 ? "" : "s");
    if (run_store_show(t->run.options.output, &err)) error_print("%s", err.message);
}

void trainer_report_save(Trainer *t, const WriterResult *result) {
    if (result->error.code)
        report_failure(t, result->step, result->error.message);
    else
        report_whole(t, result);
}

// ---- while it trains

static void begin_write(Trainer *t) {
    CheckpointContent content;
    WriterResult earlier;
    Error err = {0};
    char store[PATH_MAX], *state = NULL;
    double began = clock_seconds();
    if (writer_wait(t->saver.writer, &earlier)) trainer_report_save(t, &earlier);
    snapshot_take(t->saver.snapshot, t->model);
    t->saver.waited = clock_seconds() - began;
    int code = trainer_describe_checkpoint(t, &content, store, &state, &err);
    content.snapshot = t->saver.snapshot;
    content.dropped = &t->saver.dropped;
    if (!code) code = writer_begin(t->saver.writer, WRITE_ALL, &content, NULL, &err);
    cJSON_free(state);
    if (code) report_failure(t, t->state.step, err.message);
}

void trainer_checkpoint(Trainer *t) {
    WriterResult result;
    const Options *o = &t->run.options;
    const bool many = t->run.team.size > 1; // then the writer is looked at before the step
    if (!many && t->saver.writer && writer_finished(t->saver.writer, &result)) trainer_report_save(t, &result);
    // the last one is trainer_save's
    if (!o->save || !o->save_every || t->state.step % o->save_every != 0 || trainer_done(t)) return;
    if (many)
        trainer_begin_parts(t);
    else
        begin_write(t);
}

void trainer_wait_saving(Trainer *t) {
    WriterResult result;
    if (t->run.team.size > 1 && t->run.options.save && t->run.options.save_every)
        trainer_wait_parts(t);
    else if (t->saver.writer && writer_wait(t->saver.writer, &result))
        trainer_report_save(t, &result);
}

void trainer_end_saving(Trainer *t) {
    trainer_wait_saving(t);
    writer_destroy(t->saver.writer);
    t->saver.writer = NULL;
}

// ---- at the end

static int write_alone(Trainer *t, uint64_t *bytes, Error *err) {
    CheckpointContent content;
    char store[PATH_MAX], *state = NULL;
    int code = trainer_describe_checkpoint(t, &content, store, &state, err);
    content.model = t->model;
    content.dropped = &t->saver.dropped;
    if (!code) code = checkpoint_write(&content, bytes, err);
    cJSON_free(state);
    return code;
}

static int write_last(Trainer *t, Error *err) {
    WriterResult result = {.step = t->state.step};
    double began = clock_seconds();
    int code = t->run.team.size > 1 ? trainer_write_parts(t, err) : write_alone(t, &result.bytes, err);
    if (t->run.team.size > 1) result.bytes = t->saver.parts.bytes;
    t->saver.waited = result.seconds = clock_seconds() - began;
    if (!code)
        report_whole(t, &result);
    else
        log_checkpoint_failed(&t->run.log, t->state.step, err->message);
    if (code) err->code = ERROR_FAULT; // whatever is to blame: the steps are done and the checkpoint is missing
    return code ? err->code : 0;
}

// Of rank 0.
static void say_communication(Trainer *t) {
    const LogRanks *c = &t->pace.communicated;
    if (t->run.team.size == 1 || t->pace.steps == 0) return;
    progress_print(&t->run.progress,
                   "communication %.3f s a step, waiting for other ranks included; not hidden by computing: %.3f s, "
                   "%.1f %% of a step",
                   c->comm_seconds / (double)t->pace.steps, c->exposed_seconds / (double)t->pace.steps,
                   100 * c->exposed_seconds / t->pace.seconds);
}

static void say_end(Trainer *t) {
    char span[24];
    progress_end(&t->run.progress); // the last step's line stays
    progress_span(span, sizeof span, clock_seconds() - t->pace.began);
    if (t->state.step >= t->run.options.steps)
        progress_print(&t->run.progress, "done after %lld steps, %s", (long long)t->state.step, span);
    else
        progress_print(&t->run.progress, "stopped by SIG%s after %lld steps, %s", sigabbrev_np(trainer_stop_signal(t)),
                       (long long)t->state.step, span);
    say_communication(t);
}

static void say_how_to_go_on(Trainer *t) {
    if (t->state.step >= t->run.options.steps) return;
    if (t->saver.saved_step == t->state.step)
        progress_print(&t->run.progress, "to go on: the same options and --resume auto");
    else
        progress_print(&t->run.progress, "no checkpoint of step %lld was written (%s)", (long long)t->state.step,
                       t->state.step ? "--save off" : "nothing was trained yet");
}

int trainer_save(Trainer *t, Error *err) {
    watchdog_phase("saving");
    say_end(t);
    trainer_close_timeline(t);
    trainer_end_saving(t);
    // a run that was stopped before its first step, or had a checkpoint of this step, has nothing new
    if (t->run.options.save && t->state.step && t->state.step != t->saver.saved_step) {
        int code = write_last(t, err);
        if (code) return code;
    }
    if (t->run.options.save && t->state.step)
        progress_print(&t->run.progress, "checkpoint in %s/checkpoint, a link: cp -rL copies it",
                       t->run.options.output);
    say_how_to_go_on(t);
    return 0;
}
