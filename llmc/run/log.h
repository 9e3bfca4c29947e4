// log.jsonl: one JSON object a line. A line is in the file whole or not at all, as soon as the call returns;
// a file that cannot grow (disk full) loses lines, with one warning, and never stops the run.
#ifndef LLMC_RUN_LOG_H
#define LLMC_RUN_LOG_H

#include <stdint.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int fd;             // -1: closed
    int64_t bytes;      // of whole lines in the file
    int64_t lost_lines; // that could not be written
} Log;

// Creates (truncates) the file at path. Errors: 2 where the path is to blame, 1.
int log_open(Log *log, const char *path, Error *err);

// Kinds of lines, bits.
typedef enum { LOG_EVALUATION = 1, LOG_TASK = 2, LOG_SAMPLE = 4 } LogKind;

// Opens the log of a run that goes on after `step`: lines beyond that step, lines of that step of the kinds that are made
// again, and lines that were cut are removed, at once (the file is replaced). No file: an empty one is made. Errors: as
// log_open.
int log_resume(Log *log, const char *path, int64_t step, int made_again, Error *err);

// What many ranks cost a step: seconds in which they communicated, and of those the ones in which computation waited.
typedef struct {
    int ranks;
    double comm_seconds, exposed_seconds;
} LogRanks;

// Means over pairs of answers to one prompt. Rewards: of DPO beta times the log-probability's distance from the reference
// model's, of a reward model the score.
typedef struct {
    double accuracy;                       // of pairs, 0..1: the chosen answer has the higher reward; a tie counts half
    double reward_chosen, reward_rejected; // means
    double nll; // DPO: negative log-likelihood of the chosen answer, by token or summed; NAN: none
} LogPreference;

// How far a source of a recipe was read since the run began.
typedef struct {
    const char *name;
    int64_t tokens;
    double epochs;
} LogSource;

// A number and what it is of.
typedef struct {
    const char *name;
    double value;
} LogMeasure;

// {"step", "loss", "lr", "grad_norm", "tokens", "tokens_per_second"}: tokens counts from the run's beginning.
// A number that is not finite is written as null, which JSON has. preference: {"accuracy", "margin", "reward_chosen",
// "reward_rejected", "nll"} besides; NULL: no comparisons. ranks: {"ranks", "comm_seconds", "exposed_seconds"} besides;
// NULL: one rank. stage: {"stage", "sources": {NAME: {"tokens", "epochs"}}} besides; NULL: no recipe.
typedef struct {
    double loss, lr, grad_norm;
    int64_t tokens;
    double tokens_per_second;
    const LogPreference *preference;
    const LogRanks *ranks;
    const char *stage;
    const LogSource *sources;
    int num_sources;
} LogStep;
void log_step(Log *log, int64_t step, const LogStep *line);

// {"step", "val_loss"}; by_source [count]: {"val_losses": {NAME: loss}} besides; preference: the same as in a step besides with
// "val_" in front; NULL: no comparisons.
void log_evaluation(Log *log, int64_t step, double val_loss, const LogMeasure *by_source, int count,
                    const LogPreference *preference);

// {"step", "val_loss_averaged", "averaged_steps"}: of the mean of the weights over so many steps
void log_averaged(Log *log, int64_t step, double val_loss, int64_t samples);

// {"step", "task", "items", ...}: and the measures by their names (eval/metrics.h). cells: {"length", "cells": [{"depth",
// "items", "exact_match", "acc"}, ...]} besides: texts of so many tokens, with something to be found at so many percent of
// them; NULL: none.
typedef struct {
    double depth;
    int64_t items;
    double acc, exact_match;
} LogCell;
typedef struct {
    int64_t length;
    const LogCell *cells; // [count]
    int count;
} LogCells;
typedef struct {
    const char *task;
    int64_t items;
    const LogMeasure *measures; // [count]
    int count;
    const LogCells *cells;
} LogTask;
void log_task(Log *log, int64_t step, const LogTask *line);

// {"step", "stage_ended"}: by its conditions, before its planned end.
void log_stage_ended(Log *log, int64_t step, const char *stage);

// {"step", "exhausted", "tokens"}: a source that may not be read once more, and what was read of it.
void log_exhausted(Log *log, int64_t step, const char *source, int64_t tokens);

// {"step", "evaluated"}: the model of which the other lines of this log are.
void log_evaluated(Log *log, int64_t step, const char *model);

// {"step", "sample"}; text is zero-terminated UTF-8.
void log_sample(Log *log, int64_t step, const char *text);

// {"step", "resumed"}: the run goes on after that step, from that checkpoint.
void log_resumed(Log *log, int64_t step, const char *checkpoint);

// {"step", "passed_over", "reason"}: a checkpoint from which it does not go on.
void log_passed_over(Log *log, int64_t step, const char *checkpoint, const char *reason);

// {"step", "checkpoint", "wait_seconds", "write_seconds", "bytes"}: for how long training waited, how long
// the write took, and the size of all files.
void log_checkpoint(Log *log, int64_t step, const char *checkpoint, double wait_seconds, double write_seconds,
                    uint64_t bytes);

// {"step", "checkpoint_failed"}: the reason.
void log_checkpoint_failed(Log *log, int64_t step, const char *reason);

// {"step", "skipped", "batch", "skipped_steps"}: why the step's update was not made, the loader's step that replays its
// batch, and how many updates were not made up to here.
void log_skip(Log *log, int64_t step, const char *reason, int64_t batch, int64_t skipped_steps);

// {"step", "spike", "limit", "batch"}: a loss above the limit.
void log_spike(Log *log, int64_t step, double loss, double limit, int64_t batch);

// {"step", "rolled_back_to"}: the run goes on from the checkpoint of an earlier step, with the batches after this one.
void log_rollback(Log *log, int64_t step, int64_t checkpoint_step);

// {"step", "weights_checksum"}: 16 hexadecimal digits.
void log_checksum(Log *log, int64_t step, uint64_t checksum);

// {"step", "stopped"}: why the run ended before its last step.
void log_stop(Log *log, int64_t step, const char *reason);

void log_close(Log *log);

#ifdef __cplusplus
}
#endif
#endif
