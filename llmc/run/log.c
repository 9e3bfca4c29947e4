#include "run/log.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/new_file.h"

int log_open(Log *log, const char *path, Error *err) {
    *log = (Log){.fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0666)};
    return log->fd < 0 ? file_fail_open(err, path, errno) : 0;
}

static bool has(const cJSON *object, const char *name) {
    return cJSON_GetObjectItemCaseSensitive(object, name) != NULL;
}

// The LogKind of a line; 0: none of them.
static int kind_of(const cJSON *object) {
    if (has(object, "val_loss") || has(object, "val_loss_averaged")) return LOG_EVALUATION;
    return has(object, "task") ? LOG_TASK : has(object, "sample") ? LOG_SAMPLE : 0;
}

// Whether a line of a log is one of a whole step up to `step`, and none of that step that is made again.
static bool is_kept(const char *line, size_t length, int64_t step, int made_again) {
    if (length == 0 || line[length - 1] != '\n') return false; // cut
    cJSON *object = cJSON_ParseWithLength(line, length);
    const cJSON *number = cJSON_GetObjectItemCaseSensitive(object, "step");
    bool kept = cJSON_IsNumber(number) && number->valuedouble <= (double)step &&
                !(number->valuedouble == (double)step && (kind_of(object) & made_again));
    cJSON_Delete(object);
    return kept;
}

static int copy_kept(FILE *from, NewFile *to, int64_t step, int made_again, int64_t *bytes, Error *err) {
    char *line = NULL;
    size_t capacity = 0;
    ssize_t length;
    int code = 0;
    *bytes = 0;
    while (!code && (length = getline(&line, &capacity, from)) > 0) {
        if (!is_kept(line, (size_t)length, step, made_again)) continue;
        code = file_append(to, line, (size_t)length, err);
        *bytes += length;
    }
    free(line);
    return code;
}

int log_resume(Log *log, const char *path, int64_t step, int made_again, Error *err) {
    *log = (Log){.fd = -1};
    NewFile shortened;
    FILE *old = fopen(path, "re");
    if (!old) return errno == ENOENT ? log_open(log, path, err) : file_fail_open(err, path, errno);
    int code = file_begin(&shortened, path, err);
    if (!code) {
        code = copy_kept(old, &shortened, step, made_again, &log->bytes, err);
        if (!code && ferror(old)) code = fail_fault(err, "%s: cannot be read", path);
        if (code)
            file_discard(&shortened);
        else
            code = file_commit(&shortened, err);
    }
    fclose(old);
    if (code) return code;
    log->fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    return log->fd < 0 ? file_fail_open(err, path, errno) : 0;
}

static void lose_line(Log *log, int error_number) {
    if (log->lost_lines++ > 0) return;
    error_print("log.jsonl: %s; training goes on, lines are missing from the log", strerror(error_number));
}

// One write a line. What a full disk took of it is cut off again, so that the file stays one of whole lines.
static void put_line(Log *log, const char *line, size_t length) {
    if (log->fd < 0) return;
    ssize_t written;
    do written = write(log->fd, line, length);
    while (written < 0 && errno == EINTR);
    if (written == (ssize_t)length) {
        log->bytes += written;
        return;
    }
    int error_number = written < 0 ? errno : ENOSPC;
    if (written > 0 && ftruncate(log->fd, log->bytes) != 0) error_number = errno;
    lose_line(log, error_number);
}

static void put_object(Log *log, cJSON *object) {
    char *text = json_print(object, false);
    cJSON_Delete(object);
    if (!text) {
        lose_line(log, ENOMEM);
        return;
    }
    size_t length = strlen(text);
    text[length] = '\n'; // in the place of the zero byte: a line is one write
    put_line(log, text, length + 1);
    cJSON_free(text);
}

static cJSON *begin(int64_t step) {
    cJSON *object = cJSON_CreateObject();
    cJSON_AddNumberToObject(object, "step", (double)step);
    return object;
}

// A float's shortest digits, not the seventeen of the double that it became. cJSON writes no numbers that
// JSON lacks: null.
static void add_number(cJSON *object, const char *name, double value) {
    char text[40];
    snprintf(text, sizeof text, "%.7g", value);
    if (isfinite(value))
        cJSON_AddRawToObject(object, name, text);
    else
        cJSON_AddNullToObject(object, name);
}

// As many digits as tell this float from every other one, so that logs can be compared bit for bit.
static void add_float(cJSON *object, const char *name, double value) {
    char text[40];
    int digits = 6;
    do snprintf(text, sizeof text, "%.*g", digits, value);
    while (strtof(text, NULL) != (float)value && ++digits <= 9);
    if (isfinite(value))
        cJSON_AddRawToObject(object, name, text);
    else
        cJSON_AddNullToObject(object, name);
}

// Each name after `prefix`.
static void add_preference(cJSON *object, const char *prefix, const LogPreference *preference) {
    const struct {
        const char *name;
        double value;
    } members[] = {{"accuracy", preference->accuracy},
                   {"margin", preference->reward_chosen - preference->reward_rejected},
                   {"reward_chosen", preference->reward_chosen},
                   {"reward_rejected", preference->reward_rejected},
                   {"nll", preference->nll}};
    char name[32];
    for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
        if (isnan(members[i].value)) continue;
        snprintf(name, sizeof name, "%s%s", prefix, members[i].name);
        add_float(object, name, members[i].value);
    }
}

static void add_stage(cJSON *object, const LogStep *line) {
    cJSON_AddStringToObject(object, "stage", line->stage);
    cJSON *sources = cJSON_AddObjectToObject(object, "sources");
    for (int i = 0; i < line->num_sources; i++) {
        cJSON *source = cJSON_AddObjectToObject(sources, line->sources[i].name);
        cJSON_AddNumberToObject(source, "tokens", (double)line->sources[i].tokens);
        add_number(source, "epochs", line->sources[i].epochs);
    }
}

void log_step(Log *log, int64_t step, const LogStep *line) {
    const LogRanks *ranks = line->ranks;
    cJSON *object = begin(step);
    add_float(object, "loss", line->loss);
    add_number(object, "lr", line->lr);
    add_float(object, "grad_norm", line->grad_norm);
    cJSON_AddNumberToObject(object, "tokens", (double)line->tokens);
    add_number(object, "tokens_per_second", line->tokens_per_second);
    if (line->stage) add_stage(object, line);
    if (line->preference) add_preference(object, "", line->preference);
    if (ranks) {
        cJSON_AddNumberToObject(object, "ranks", ranks->ranks);
        add_number(object, "comm_seconds", ranks->comm_seconds);
        add_number(object, "exposed_seconds", ranks->exposed_seconds);
    }
    put_object(log, object);
}

void log_evaluation(Log *log, int64_t step, double val_loss, const LogMeasure *by_source, int count,
                    const LogPreference *preference) {
    cJSON *object = begin(step);
    add_number(object, "val_loss", val_loss);
    cJSON *losses = count ? cJSON_AddObjectToObject(object, "val_losses") : NULL;
    for (int i = 0; i < count; i++) add_number(losses, by_source[i].name, by_source[i].value);
    if (preference) add_preference(object, "val_", preference);
    put_object(log, object);
}

void log_averaged(Log *log, int64_t step, double val_loss, int64_t samples) {
    cJSON *object = begin(step);
    add_number(object, "val_loss_averaged", val_loss);
    cJSON_AddNumberToObject(object, "averaged_steps", (double)samples);
    put_object(log, object);
}

static void add_cells(cJSON *object, const LogCells *by_depth) {
    cJSON_AddNumberToObject(object, "length", (double)by_depth->length);
    cJSON *list = cJSON_AddArrayToObject(object, "cells");
    for (const LogCell *c = by_depth->cells; c < by_depth->cells + by_depth->count; c++) {
        cJSON *cell = cJSON_CreateObject();
        add_number(cell, "depth", c->depth);
        cJSON_AddNumberToObject(cell, "items", (double)c->items);
        add_number(cell, "exact_match", c->exact_match);
        add_number(cell, "acc", c->acc);
        cJSON_AddItemToArray(list, cell);
    }
}

void log_task(Log *log, int64_t step, const LogTask *line) {
    cJSON *object = begin(step);
    cJSON_AddStringToObject(object, "task", line->task);
    cJSON_AddNumberToObject(object, "items", (double)line->items);
    for (int i = 0; i < line->count; i++) add_number(object, line->measures[i].name, line->measures[i].value);
    if (line->cells) add_cells(object, line->cells);
    put_object(log, object);
}

void log_stage_ended(Log *log, int64_t step, const char *stage) {
    cJSON *object = begin(step);
    cJSON_AddStringToObject(object, "stage_ended", stage);
    put_object(log, object);
}

void log_exhausted(Log *log, int64_t step, const char *source, int64_t tokens) {
    cJSON *object = begin(step);
    cJSON_AddStringToObject(object, "exhausted", source);
    cJSON_AddNumberToObject(object, "tokens", (double)tokens);
    put_object(log, object);
}

void log_evaluated(Log *log, int64_t step, const char *model) {
    cJSON *object = begin(step);
    cJSON_AddStringToObject(object, "evaluated", model);
    put_object(log, object);
}

void log_sample(Log *log, int64_t step, const char *text) {
    cJSON *object = begin(step);
    cJSON_AddStringToObject(object, "sample", text);
    put_object(log, object);
}

void log_resumed(Log *log, int64_t step, const char *checkpoint) {
    cJSON *object = begin(step);
    cJSON_AddStringToObject(object, "resumed", checkpoint);
    put_object(log, object);
}

void log_passed_over(Log *log, int64_t step, const char *checkpoint, const char *reason) {
    cJSON *object = begin(step);
    cJSON_AddStringToObject(object, "passed_over", checkpoint);
    cJSON_AddStringToObject(object, "reason", reason);
    put_object(log, object);
}

void log_checkpoint(Log *log, int64_t step, const char *checkpoint, double wait_seconds, double write_seconds,
                    uint64_t bytes) {
    cJSON *object = begin(step);
    cJSON_AddStringToObject(object, "checkpoint", checkpoint);
    add_number(object, "wait_seconds", wait_seconds);
    add_number(object, "write_seconds", write_seconds);
    cJSON_AddNumberToObject(object, "bytes", (double)bytes);
    put_object(log, object);
}

void log_checkpoint_failed(Log *log, int64_t step, const char *reason) {
    cJSON *object = begin(step);
    cJSON_AddStringToObject(object, "checkpoint_failed", reason);
    put_object(log, object);
}

void log_skip(Log *log, int64_t step, const char *reason, int64_t batch, int64_t skipped_steps) {
    cJSON *object = begin(step);
    cJSON_AddStringToObject(object, "skipped", reason);
    cJSON_AddNumberToObject(object, "batch", (double)batch);
    cJSON_AddNumberToObject(object, "skipped_steps", (double)skipped_steps);
    put_object(log, object);
}

void log_spike(Log *log, int64_t step, double loss, double limit, int64_t batch) {
    cJSON *object = begin(step);
    add_float(object, "spike", loss);
    add_float(object, "limit", limit);
    cJSON_AddNumberToObject(object, "batch", (double)batch);
    put_object(log, object);
}

void log_rollback(Log *log, int64_t step, int64_t checkpoint_step) {
    cJSON *object = begin(step);
    cJSON_AddNumberToObject(object, "rolled_back_to", (double)checkpoint_step);
    put_object(log, object);
}

void log_checksum(Log *log, int64_t step, uint64_t checksum) {
    cJSON *object = begin(step);
    char digits[17];
    snprintf(digits, sizeof digits, "%016llx", (unsigned long long)checksum);
    cJSON_AddStringToObject(object, "weights_checksum", digits);
    put_object(log, object);
}

void log_stop(Log *log, int64_t step, const char *reason) {
    cJSON *object = begin(step);
    cJSON_AddStringToObject(object, "stopped", reason);
    put_object(log, object);
}

void log_close(Log *log) {
    if (log->fd >= 0) close(log->fd);
    log->fd = -1;
}
