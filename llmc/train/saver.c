#include "train/saver.h"

#include <cjson/cJSON.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/path.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/run_store.h"
#include "checkpoint/store.h"

static bool many(const Saver *s) { return s->run->team.size > 1; }

static bool writes_part(const Saver *s) { return !many(s) || s->run->team.rank < s->run->parallel.shards; }

static bool saves_meanwhile(const Saver *s) { return s->run && s->run->options.save && s->run->options.save_every; }

int saver_open(Saver *s, Run *run, const TrainState *state, Llama3 *model, Error *err) {
    *s = (Saver){.run = run, .state = state, .model = model, .saved_step = state->step, .first_step = state->step};
    if (!saves_meanwhile(s) || !writes_part(s)) return 0;
    int code = snapshot_create(&s->snapshot, model, err);
    return code ? code : writer_create(&s->writer, err);
}

// ---- what a checkpoint is made of

// The content of a checkpoint, and the texts it points to.
typedef struct {
    CheckpointContent content;
    char store[PATH_MAX], *state;
} Described;

// Describes a checkpoint of the present step; snapshot or model are the caller's to add. d->state is to be freed by cJSON_free,
// also after an error. Errors: 1, 2.
static int describe(const Saver *s, Described *d, Error *err) {
    const Options *o = &s->run->options;
    d->state = NULL;
    int code = path_join(d->store, o->output, "checkpoints", err);
    if (code) return code;
    d->state = train_state_text(s->state, o);
    if (!d->state) return fail_fault(err, "out of memory");
    d->content = (CheckpointContent){.store = d->store,
                                     .step = s->state->step,
                                     .config = &s->run->config,
                                     .table = llama3_parameters(s->model),
                                     .part = many(s) ? s->run->team.rank : 0,
                                     .parts = many(s) ? s->run->parallel.shards : 1,
                                     .state = d->state,
                                     .base = s->state->identity.base_model,
                                     .tokenizer_folder = o->output,
                                     .keep_last = (int)o->keep_last,
                                     .keep_every = o->keep_every,
                                     .average = llama3_shape(s->model)->average,
                                     .averaged = s->state->average_samples > 0,
                                     .whole_step = s->saved_step ? s->saved_step : s->first_step};
    return 0;
}

// ---- what became of a write: log and terminal

static void report_failure(Saver *s, int64_t step, const char *reason) {
    log_checkpoint_failed(&s->run->log, step, reason);
    progress_end(&s->run->progress);
    if (s->saved_step)
        error_print("no checkpoint of step %lld: %s; training goes on, the newest checkpoint is that of step %lld",
                    (long long)step, reason, (long long)s->saved_step);
    else
        error_print("no checkpoint of step %lld: %s; training goes on, there is no checkpoint yet", (long long)step,
                    reason);
}

static void report_whole(Saver *s, const WriterResult *result) {
    char name[STORE_NAME_SIZE], size[16];
    Error err = {0};
    Progress *progress = &s->run->progress;
    store_name(name, result->step);
    s->saved_step = result->step;
    s->num_whole++;
    if (!team_leads(&s->run->team)) return;
    log_checkpoint(&s->run->log, result->step, name, s->waited, result->seconds, result->bytes);
    progress_count(size, sizeof size, (double)result->bytes);
    progress_print(progress, "step %lld: checkpoint of %sB written in %.2f s, training waited %.2f s",
                   (long long)result->step, size, result->seconds, s->waited);
    if (s->dropped)
        progress_print(progress, "step %lld: the disk has no room for one more: %d older checkpoint%s went before",
                       (long long)result->step, s->dropped, s->dropped == 1 ? "" : "s");
    if (run_store_show(s->run->options.output, &err)) error_print("%s", err.message);
}

static void report(Saver *s, const WriterResult *result) {
    if (result->error.code)
        report_failure(s, result->step, result->error.message);
    else
        report_whole(s, result);
}

static void report_error(Saver *s, int64_t step, const Error *err) {
    if (team_leads(&s->run->team)) report_failure(s, step, err->message);
}

// ---- one rank, while it trains

static void begin_write(Saver *s) {
    Described d;
    WriterResult earlier;
    Error err = {0};
    const double began = clock_seconds();
    if (writer_wait(s->writer, &earlier)) report(s, &earlier);
    snapshot_take(s->snapshot, s->model);
    s->waited = clock_seconds() - began;
    int code = describe(s, &d, &err);
    d.content.snapshot = s->snapshot;
    d.content.dropped = &s->dropped;
    if (!code) code = writer_begin(s->writer, WRITE_ALL, &d.content, NULL, &err);
    cJSON_free(d.state);
    if (code) report_failure(s, s->state->step, err.message);
}

// ---- many ranks: the parts

// Rank 0 makes the folder; the others learn whether it could.
static int begin_folder(Saver *s, Described *d, Error *err) {
    const Team *team = &s->run->team;
    int code = team_agree(team, describe(s, d, err), err);
    if (code) return code;
    d->content.dropped = &s->dropped;
    return team_follow(team, team_leads(team) ? checkpoint_begin(&d->content, err) : 0, err);
}

// The other ranks learn of an error of this rank once all parts have ended.
static void begin_part(Saver *s, Described *d) {
    PartsInFlight *p = &s->parts;
    snapshot_take(s->snapshot, s->model);
    d->content.snapshot = s->snapshot;
    p->part = writer_begin(s->writer, WRITE_PART, &d->content, NULL, &p->written.error) == 0;
}

// *lines, s->parts.bytes = the checksums and size of all parts. Errors, on all ranks: 1.
static int join_parts(Saver *s, char **lines, Error *err) {
    PartsInFlight *p = &s->parts;
    int64_t bytes = (int64_t)p->written.bytes;
    comm_host_sum(s->run->team.comm, &bytes, 1);
    p->bytes = (uint64_t)bytes;
    int code = team_join_texts(&s->run->team, p->written.lines ? p->written.lines : "", "", lines, err);
    free(p->written.lines);
    p->written.lines = NULL;
    return code;
}

// Commit and abandon need only the checkpoint's step and store, and whether it has an average.
static int begin_commit(Saver *s, const char *lines, Error *err) {
    Described d;
    int code = describe(s, &d, err);
    d.content.step = s->parts.step;
    d.content.averaged = s->parts.averaged;
    if (!code) code = writer_begin(s->writer, WRITE_COMMIT, &d.content, lines, err);
    cJSON_free(d.state);
    return code;
}

static void abandon(const Saver *s, int64_t step) {
    Described d;
    Error err;
    if (!team_leads(&s->run->team)) return;
    if (describe(s, &d, &err) == 0) {
        d.content.step = step;
        checkpoint_abandon(&d.content);
    }
    cJSON_free(d.state);
}

// Called when all parts have ended, `failed` of them with an error.
static void finish_parts(Saver *s, int64_t failed) {
    PartsInFlight *p = &s->parts;
    Error err = p->written.error;
    char *lines = NULL;
    p->parts = false;
    int code = failed ? team_agree(&s->run->team, err.code, &err) : join_parts(s, &lines, &err);
    if (!code && team_leads(&s->run->team)) {
        code = begin_commit(s, lines, &err);
        p->commit = !code;
    }
    free(lines);
    free(p->written.lines);
    p->written.lines = NULL;
    if (!code) return;
    abandon(s, p->step);
    report_error(s, p->step, &err);
}

// Takes what the writer has finished: a part, or the whole.
static void take_result(Saver *s, WriterResult *result) {
    PartsInFlight *p = &s->parts;
    if (result->job == WRITE_PART) {
        p->part = false;
        p->written = *result;
        return;
    }
    p->commit = false;
    result->seconds = clock_seconds() - p->began;
    result->bytes += p->bytes;
    report(s, result);
}

void saver_send_parts(Saver *s, int64_t *writing, int64_t *failed) {
    WriterResult result;
    PartsInFlight *p = &s->parts;
    if ((p->part || p->commit) && writer_finished(s->writer, &result)) take_result(s, &result);
    *writing = p->part;
    *failed = p->parts && p->written.error.code;
}

void saver_receive_parts(Saver *s, int64_t writing, int64_t failed) {
    if (s->parts.parts && writing == 0) finish_parts(s, failed);
}

// Waits until no checkpoint is being written; then all ranks know saved_step.
static void wait_parts(Saver *s) {
    WriterResult result;
    PartsInFlight *p = &s->parts;
    if (p->part && writer_wait(s->writer, &result)) take_result(s, &result);
    if (p->parts) {
        int64_t failed = p->written.error.code != 0;
        comm_host_sum(s->run->team.comm, &failed, 1);
        finish_parts(s, failed);
    }
    if (p->commit && writer_wait(s->writer, &result)) take_result(s, &result);
    comm_host_broadcast(s->run->team.comm, &s->saved_step, sizeof s->saved_step, 0);
}

// Begins a checkpoint of all ranks; a failure is a warning.
static void begin_parts(Saver *s) {
    Described d;
    Error err = {0};
    wait_parts(s);
    const double began = clock_seconds();
    if (begin_folder(s, &d, &err)) {
        report_error(s, s->state->step, &err);
    } else {
        s->parts =
            (PartsInFlight){.parts = true, .step = s->state->step, .averaged = d.content.averaged, .began = began};
        if (writes_part(s)) begin_part(s, &d);
        s->waited = clock_seconds() - began;
    }
    cJSON_free(d.state);
}

// ---- while it trains

bool saver_due(const Saver *s) { return saves_meanwhile(s) && s->state->step % s->run->options.save_every == 0; }

void saver_step(Saver *s) {
    WriterResult result;
    // many ranks look at the writer at the beginning of each step (agree_on_step)
    if (!many(s) && s->writer && writer_finished(s->writer, &result)) report(s, &result);
    // saver_save_last writes the run's last checkpoint
    if (!saver_due(s) || run_done(s->run, s->state->step)) return;
    if (many(s))
        begin_parts(s);
    else
        begin_write(s);
}

void saver_wait(Saver *s) {
    WriterResult result;
    if (saves_meanwhile(s) && many(s))
        wait_parts(s);
    else if (s->writer && writer_wait(s->writer, &result))
        report(s, &result);
}

void saver_close(Saver *s) {
    saver_wait(s);
    writer_destroy(s->writer);
    snapshot_destroy(s->snapshot);
    s->writer = NULL;
    s->snapshot = NULL;
}

// ---- at the end

static int write_alone(Saver *s, uint64_t *bytes, Error *err) {
    Described d;
    int code = describe(s, &d, err);
    d.content.model = s->model;
    d.content.dropped = &s->dropped;
    if (!code) code = checkpoint_write(&d.content, bytes, err);
    cJSON_free(d.state);
    return code;
}

static int write_and_commit(Saver *s, Described *d, Error *err) {
    const Team *team = &s->run->team;
    PartsInFlight *p = &s->parts;
    char *lines = NULL;
    uint64_t more = 0;
    int code = 0;
    d->content.model = s->model;
    if (writes_part(s)) code = checkpoint_write_part(&d->content, &p->written.lines, &p->written.bytes, err);
    code = team_agree(team, code, err);
    if (!code) code = join_parts(s, &lines, err);
    if (!code && team_leads(team)) code = checkpoint_commit(&d->content, lines, &more, err);
    code = team_follow(team, code, err);
    if (code) abandon(s, s->state->step);
    p->bytes += more;
    free(lines);
    return code;
}

static int write_together(Saver *s, uint64_t *bytes, Error *err) {
    Described d;
    s->parts = (PartsInFlight){.step = s->state->step};
    int code = begin_folder(s, &d, err);
    if (!code) code = write_and_commit(s, &d, err);
    free(s->parts.written.lines);
    s->parts.written.lines = NULL;
    cJSON_free(d.state);
    *bytes = s->parts.bytes;
    return code;
}

static int write_last(Saver *s, Error *err) {
    WriterResult result = {.step = s->state->step};
    const double began = clock_seconds();
    int code = many(s) ? write_together(s, &result.bytes, err) : write_alone(s, &result.bytes, err);
    s->waited = result.seconds = clock_seconds() - began;
    if (!code)
        report_whole(s, &result);
    else
        log_checkpoint_failed(&s->run->log, s->state->step, err->message);
    if (code) err->code = ERROR_FAULT; // whatever the reason: the steps are done and their checkpoint is missing
    return code ? err->code : 0;
}

static void print_how_to_resume(Saver *s) {
    const int64_t step = s->state->step;
    if (step >= s->run->options.steps) return;
    if (s->saved_step == step)
        progress_print(&s->run->progress, "to go on: the same options and --resume auto");
    else
        progress_print(&s->run->progress, "no checkpoint of step %lld was written (%s)", (long long)step,
                       step ? "--save off" : "nothing was trained yet");
}

int saver_save_last(Saver *s, Error *err) {
    const int64_t step = s->state->step;
    const bool save = s->run->options.save && step;
    saver_close(s);
    // there is nothing new where the run was stopped before its first step, or has a checkpoint of this one
    if (save && step != s->saved_step) {
        int code = write_last(s, err);
        if (code) return code;
    }
    if (save)
        progress_print(&s->run->progress, "checkpoint in %s/checkpoint, a link: cp -rL copies it",
                       s->run->options.output);
    print_how_to_resume(s);
    return 0;
}
