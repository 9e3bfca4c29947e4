// A run as a whole: what it was asked to do, by which ranks, with which model, and where its results go. All other parts of
// training build on it.
#ifndef LLMC_TRAIN_RUN_H
#define LLMC_TRAIN_RUN_H

#include <stdbool.h>

#include "model/config.h"
#include "model/parallel.h"
#include "options/options.h"
#include "ranks/team.h"
#include "run/log.h"
#include "run/progress.h"
#include "run/run_dir.h"

typedef struct {
    Options options;   // as given, then settled: no number is left to a default that depends on data or ranks
    Team team;         // all ranks
    Parallel parallel; // how they divide the model's training among them
    LlamaConfig config;
    RunDir dir;        // rank 0's
    Log log;           // log.jsonl, rank 0's
    Progress progress; // the progress line and what is printed above it
    bool watched;      // the watchdog was started
    int stop_signal;   // of many ranks: the signal on which they agreed to stop; 0: none
} Run;

#endif
