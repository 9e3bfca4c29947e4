// Checkpoints: every so many steps in the background, and at the end.
#ifndef LLMC_TRAIN_SAVER_H
#define LLMC_TRAIN_SAVER_H

#include <stdbool.h>
#include <stdint.h>
#include "checkpoint/snapshot.h"
#include "checkpoint/writer.h"

// A checkpoint that many ranks write: first their parts, then rank 0 gives it its name.
typedef struct {
    bool parts;           // they are being written; the same on all ranks
    bool part;            // this rank's is
    bool commit;          // it gets its name; rank 0 knows
    int64_t step;         // whose it is
    bool averaged;        // the mean over steps has samples in it
    double began;         // seconds
    WriterResult written; // this rank's part
    uint64_t bytes;       // of all parts
} PartsInFlight;

typedef struct {
    Snapshot *snapshot; // NULL without --save-every
    Writer *writer;
    PartsInFlight parts;
    double waited;      // seconds for which training waited for the write that is running
    int64_t saved_step; // of the newest whole checkpoint; 0: none
    int64_t first_step; // of the checkpoint from which this process went on; 0: none
    int dropped;        // older ones removed to make room for the one that is or was being written
} Saver;

#endif
