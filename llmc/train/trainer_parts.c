// Checkpoints of many ranks: those of the first shard group write their parts at the same time, in the background; when
// all have ended, rank 0 gives the checkpoint its name, or reports why there is none.
#include "train/trainer_internal.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "checkpoint/checkpoint.h"

bool trainer_writes_part(const Trainer *t) {
    return t->run.team.size == 1 || t->run.team.rank < t->run.parallel.shards;
}

// The content of a checkpoint, and the texts it points to.
typedef struct {
    CheckpointContent content;
    char store[PATH_MAX], *state;
} Described;

static int describe(const Trainer *t, Described *d, Error *err) {
    d->state = NULL;
    return trainer_describe_checkpoint(t, &d->content, d->store, &d->state, err);
}

static void report_failure(Trainer *t, int64_t step, const Error *err) {
    WriterResult result = {.step = step, .error = *err};
    if (team_leads(&t->run.team)) trainer_report_save(t, &result);
}

// ---- parts

// Rank 0 makes the folder, the others hear whether it is there.
static int begin_folder(Trainer *t, Described *d, Error *err) {
    int code = team_agree(&t->run.team, describe(t, d, err), err);
    if (code) return code;
    d->content.dropped = &t->saver.dropped;
    return team_follow(&t->run.team, team_leads(&t->run.team) ? checkpoint_begin(&d->content, err) : 0, err);
}

// An error of this rank alone is heard when all parts have ended.
static void begin_part(Trainer *t, Described *d) {
    PartsInFlight *s = &t->saver.parts;
    snapshot_take(t->saver.snapshot, t->model);
    d->content.snapshot = t->saver.snapshot;
    s->part = writer_begin(t->saver.writer, WRITE_PART, &d->content, NULL, &s->written.error) == 0;
}

void trainer_begin_parts(Trainer *t) {
    Described d;
    Error err = {0};
    trainer_wait_parts(t);
    const double began = clock_seconds();
    if (begin_folder(t, &d, &err)) {
        report_failure(t, t->state.step, &err);
    } else {
        t->saver.parts =
            (PartsInFlight){.parts = true, .step = t->state.step, .averaged = d.content.averaged, .began = began};
        if (trainer_writes_part(t)) begin_part(t, &d);
        t->saver.waited = clock_seconds() - began;
    }
    cJSON_free(d.state);
}

// ---- the whole

// *lines, *bytes = of all parts. Errors, on all ranks: 1.
static int join_parts(Trainer *t, char **lines, Error *err) {
    PartsInFlight *s = &t->saver.parts;
    int64_t bytes = (int64_t)s->written.bytes;
    comm_host_sum(t->run.team.comm, &bytes, 1);
    s->bytes = (uint64_t)bytes;
    int code = team_join_texts(&t->run.team, s->written.lines ? s->written.lines : "", "", lines, err);
    free(s->written.lines);
    s->written.lines = NULL;
    return code;
}

// Only its step and store matter to commit and abandon, and whether there is a mean.
static int begin_commit(Trainer *t, const char *lines, Error *err) {
    Described d;
    int code = describe(t, &d, err);
    d.content.step = t->saver.parts.step;
    d.content.averaged = t->saver.parts.averaged;
    if (!code) code = writer_begin(t->saver.writer, WRITE_COMMIT, &d.content, lines, err);
    cJSON_free(d.state);
    return code;
}

static void abandon(const Trainer *t, int64_t step) {
    Described d;
    Error err;
    if (!team_leads(&t->run.team)) return;
    if (describe(t, &d, &err) == 0) {
        d.content.step = step;
        checkpoint_abandon(&d.content);
    }
    cJSON_free(d.state);
}

// All parts have ended, `failed` of them with an error.
static void finish_parts(Trainer *t, int64_t failed) {
    PartsInFlight *s = &t->saver.parts;
    Error err = s->written.error;
    char *lines = NULL;
    s->parts = false;
    int code = failed ? team_agree(&t->run.team, err.code, &err) : join_parts(t, &lines, &err);
    if (!code && team_leads(&t->run.team)) {
        code = begin_commit(t, lines, &err);
        s->commit = !code;
    }
    free(lines);
    free(s->written.lines);
    s->written.lines = NULL;
    if (!code) return;
    abandon(t, s->step);
    report_failure(t, s->step, &err);
}

// What the writer has ended with.
static void take_result(Trainer *t, WriterResult *result) {
    PartsInFlight *s = &t->saver.parts;
    if (result->job == WRITE_PART) {
        s->part = false;
        s->written = *result;
        return;
    }
    s->commit = false;
    result->seconds = clock_seconds() - s->began;
    result->bytes += s->bytes;
    trainer_report_save(t, result);
}

void trainer_say_saving(Trainer *t, int64_t *writing, int64_t *failed) {
    WriterResult result;
    PartsInFlight *s = &t->saver.parts;
    if ((s->part || s->commit) && writer_finished(t->saver.writer, &result)) take_result(t, &result);
    *writing = s->part;
    *failed = s->parts && s->written.error.code;
}

void trainer_hear_saving(Trainer *t, int64_t writing, int64_t failed) {
    if (t->saver.parts.parts && writing == 0) finish_parts(t, failed);
}

void trainer_wait_parts(Trainer *t) {
    WriterResult result;
    PartsInFlight *s = &t->saver.parts;
    if (s->part && writer_wait(t->saver.writer, &result)) take_result(t, &result);
    if (s->parts) {
        int64_t failed = s->written.error.code != 0;
        comm_host_sum(t->run.team.comm, &failed, 1);
        finish_parts(t, failed);
    }
    if (s->commit && writer_wait(t->saver.writer, &result)) take_result(t, &result);
    comm_host_broadcast(t->run.team.comm, &t->saver.saved_step, sizeof t->saver.saved_step, 0);
}

// ---- at the end

static int write_and_commit(Trainer *t, Described *d, Error *err) {
    PartsInFlight *s = &t->saver.parts;
    char *lines = NULL;
    uint64_t more = 0;
    int code = 0;
    d->content.model = t->model;
    if (trainer_writes_part(t)) code = checkpoint_write_part(&d->content, &s->written.lines, &s->written.bytes, err);
    code = team_agree(&t->run.team, code, err);
    if (!code) code = join_parts(t, &lines, err);
    if (!code && team_leads(&t->run.team)) code = checkpoint_commit(&d->content, lines, &more, err);
    code = team_follow(&t->run.team, code, err);
    if (code) abandon(t, t->state.step);
    s->bytes += more;
    free(lines);
    return code;
}

int trainer_write_parts(Trainer *t, Error *err) {
    Described d;
    t->saver.parts = (PartsInFlight){.step = t->state.step};
    int code = begin_folder(t, &d, err);
    if (!code) code = write_and_commit(t, &d, err);
    free(t->saver.parts.written.lines);
    t->saver.parts.written.lines = NULL;
    cJSON_free(d.state);
    return code;
}
