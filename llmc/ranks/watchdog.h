// Ends all ranks when one of them is dead, stopped or hung: a collective would wait for it forever.
//
// A thread of each rank writes what the rank does into FOLDER/.ranks (rank_status.h) about once a second, and reads what
// others write. A rank counts as lost when
//   - its process, on the same machine, is gone;
//   - its file has not changed for longer than the timeout, by the reader's clock alone;
//   - it lives, but ranks have waited longer than the timeout in a collective that it has not begun, in the phase
//     "training" (in others, thirty times as long), or all wait in the same one for ten times as long;
//   - the transport tells of an error (world_check).
// The first to notice prints one line on stderr with the rank, its process, the last step, its last collective and
// those in which the others wait; then all ranks end with code 1. A rank that ends by exit() or quick_exit() with an
// error of its own, which it has printed, ends the others without a further line.
#ifndef LLMC_RANKS_WATCHDOG_H
#define LLMC_RANKS_WATCHDOG_H

#include <stdint.h>

#include "comm/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const char *folder; // the run's output folder, the same on all machines
    int rank, size;
    double timeout; // seconds; 0: no watchdog
    World *world;   // NULL: status and check below stand for it
    uint64_t run;   // without a world: any number that all ranks have and no earlier run in this folder had
    void (*status)(void *context, CommStatus *status); // NULL: nothing is known of collectives
    int (*check)(void *context, Error *err);           // NULL: no errors
    void *context;
} WatchdogSpec;

// Begins to watch; nothing where size is 1. Collective over the world, if there is one. One at a time in a process.
// Errors: 2, 1 (the folder or the rank's file in it can't be made), on that rank alone: the caller tells the others.
int watchdog_start(const WatchdogSpec *spec, Error *err);

// What this rank does now, a string that stays ("training" is what is watched most closely), and steps done. Cheap;
// from any thread; also where no watchdog runs.
void watchdog_phase(const char *phase);
void watchdog_step(int64_t step);

// Orderly end: from here on no rank waits for this one. The last to stop removes the files. To be called after a barrier, as a
// rank that dies later is not noticed by this one, and before world_close. Nothing where no watchdog runs.
void watchdog_stop(void);

#ifdef __cplusplus
}
#endif
#endif
