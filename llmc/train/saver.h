// Checkpoints of a run: every so many steps in the background, and at the end.
//
// Many ranks write a checkpoint together: those of the first shard group write their parts at the same time, in the
// background; when all have ended, rank 0 gives the checkpoint its name, or reports why there is none.
#ifndef LLMC_TRAIN_SAVER_H
#define LLMC_TRAIN_SAVER_H

#include <stdbool.h>
#include <stdint.h>

#include "checkpoint/snapshot.h"
#include "checkpoint/writer.h"
#include "model/llama3_create.h"
#include "train/run.h"
#include "train/train_state.h"

#ifdef __cplusplus
extern "C" {
#endif

// A checkpoint that many ranks are writing.
typedef struct {
    bool parts;           // parts are being written; the same on all ranks
    bool part;            // this rank's is
    bool commit;          // it gets its name; rank 0 knows
    int64_t step;         // whose it is
    bool averaged;        // the mean over steps has samples in it
    double began;         // seconds
    WriterResult written; // this rank's part
    uint64_t bytes;       // of all parts
} PartsInFlight;

typedef struct {
    Run *run;
    const TrainState *state;
    Llama3 *model;
    Snapshot *snapshot; // NULL without --save-every
    Writer *writer;
    PartsInFlight parts;
    double waited;      // seconds for which training waited for the write that is running
    int64_t saved_step; // of the newest whole checkpoint; 0: none, or one that says too little of its step
    int64_t first_step; // of the checkpoint from which this process went on; 0: none
    int64_t num_whole;  // checkpoints that became whole in this process; rank 0 knows
    int dropped;        // older ones removed to make room for the one that is or was being written
} Saver;

// Takes memory and starts the thread that writes. The saver keeps the pointers; of a resumed run state->step has a checkpoint.
// Errors: 1.
int saver_open(Saver *saver, Run *run, const TrainState *state, Llama3 *model, Error *err);

// After a step: reports a write that has ended, and begins one where it is due. A failure is a warning. Collective.
void saver_step(Saver *saver);

// Waits for a write that is running and reports it. Collective.
void saver_wait(Saver *saver);

// Writes the checkpoint of the last step, unless there is one, and says where it is. Collective. Errors: 1.
int saver_save_last(Saver *saver, Error *err);

// Waits for a write that is running, reports it, and gives memory and thread back. Collective. {0} is allowed.
void saver_close(Saver *saver);

// ---- of many ranks, at each step

// *writing, *failed = 1 where this rank's part is being written, or has failed; else 0.
void saver_send_parts(Saver *saver, int64_t *writing, int64_t *failed);

// Their sums over all ranks: once no rank writes any more, the checkpoint gets its name or is given up. Collective.
void saver_receive_parts(Saver *saver, int64_t writing, int64_t failed);

#ifdef __cplusplus
}
#endif
#endif
