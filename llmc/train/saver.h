// Writes a run's checkpoints: in the background every --save-every steps, and at the end.
//
// Many ranks write a checkpoint together: those of the first shard group write their parts at the same time, in the
// background. When all parts are written, rank 0 gives the checkpoint its name; if one failed, it reports why there is none.
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
    bool commit;          // rank 0 is giving it its name
    int64_t step;         // of the checkpoint
    bool averaged;        // it has averaged weights
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
    double waited;      // seconds that training waited for the write that is running
    int64_t saved_step; // of the newest whole checkpoint; 0: none, or it has to be replaced
    int64_t first_step; // of the checkpoint from which this process went on; 0: none
    int64_t num_whole;  // checkpoints that became whole in this process; rank 0 knows
    int dropped;        // older ones removed to make room for the one that is or was being written
} Saver;

// Allocates memory and starts the thread that writes, if --save-every asks for it. Keeps the pointers. In a resumed run
// state->step is that of the resumed checkpoint. Errors: 1.
int saver_open(Saver *saver, Run *run, const TrainState *state, Llama3 *model, Error *err);

// Called after a step: reports a write that has ended, and begins one where it is due. A failure is a warning. Collective.
void saver_step(Saver *saver);

// Whether a checkpoint is due after this step.
bool saver_due(const Saver *saver);

// Waits for a write that is running and reports it. Collective.
void saver_wait(Saver *saver);

// Writes a checkpoint of the last step, unless there is one, and prints where it is. Collective. Errors: 1.
int saver_save_last(Saver *saver, Error *err);

// Waits for a write that is running, reports it, and frees memory and thread. Collective. {0} is allowed.
void saver_close(Saver *saver);

// ---- of many ranks, at each step

// *writing = 1 while this rank's part is being written, *failed = 1 once it has failed; else 0.
void saver_send_parts(Saver *saver, int64_t *writing, int64_t *failed);

// Takes the sums of these over all ranks: once no rank is writing, the checkpoint gets its name or is abandoned. Collective.
void saver_receive_parts(Saver *saver, int64_t writing, int64_t failed);

#ifdef __cplusplus
}
#endif
#endif
