// What all parts of a run share: its options, its ranks, the model's configuration, and where its results go.
#ifndef LLMC_TRAIN_RUN_H
#define LLMC_TRAIN_RUN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "model/config.h"
#include "model/run_shape.h"
#include "options/options.h"
#include "ranks/team.h"
#include "run/log.h"
#include "run/progress.h"
#include "run/run_dir.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    Options options;   // as given; setup fills in lengths and sizes that depend on data or ranks
    Team team;         // all ranks
    Parallel parallel; // how they divide the model's training among them
    LlamaConfig config;
    RunDir dir;        // rank 0's
    Log log;           // log.jsonl, rank 0's
    Progress progress; // the progress line and what is printed above it
    bool watched;      // the watchdog was started
    int64_t stage_end; // the steps after which the running stage ends; without --recipe the run
    int stop_signal;   // of many ranks: the signal on which they agreed to stop; 0: none
} Run;

// Forms the groups of ranks of --zero and --shard-group. Collective. Errors: 2, 1.
int run_divide(Run *run, Error *err);

// Refuses (2) a --shard-group that does not divide so many ranks.
int run_check_shard_group(const Options *o, int ranks, Error *err);

// What a model is made for by the options, of which seq_len, batch_size and grad_accum are settled; without task_set_loss.
RunShape run_shape(const Run *run);

// Whether all steps are done, or all ranks are to stop.
bool run_done(const Run *run, int64_t step);

// The signal because of which all ranks of this run stop; 0: none came.
int run_stop_signal(const Run *run);

// Tells all ranks of a signal that came to one of them; called before an evaluation, which takes long. Collective.
void run_agree_on_stopping(Run *run);

// The two halves of run_agree_on_stopping, for a caller that sums these numbers over the ranks together with others.
enum { RUN_SIGNALS = 3 };
void run_send_signals(int64_t numbers[RUN_SIGNALS]);
void run_receive_signals(Run *run, const int64_t sums[RUN_SIGNALS]);

#ifdef __cplusplus
}
#endif
#endif
