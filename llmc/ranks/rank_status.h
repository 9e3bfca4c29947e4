// What a rank writes of itself into a small file that the other ranks read: OUTPUT/.ranks/rank_00002.
#ifndef LLMC_RANKS_RANK_STATUS_H
#define LLMC_RANKS_RANK_STATUS_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/hash.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    RANK_RUNS,
    RANK_DONE,   // ended in order
    RANK_FAILED, // ended with an error of its own, which it has printed
    RANK_DOOMED, // a verdict has been given on some rank: all end
} RankState;

// Fixed size, no pointers; the same program on all machines reads and writes it.
typedef struct {
    uint64_t run;   // the run that this is of
    uint64_t count; // of writes: a rank that lives counts on
    int64_t step;   // steps done
    int64_t pid;
    uint64_t started;      // when the process began, in the kernel's clock ticks, as pids are used again
    uint64_t begun, ended; // CommStatus
    char label[64];
    char host[64];
    char place[DIGEST_LENGTH + 1]; // names the machine, its boot and its pid namespace: a rank of the same place sees the pid
    char phase[31];
    int32_t rank, state;
    Digest check; // of all before it: a file read while it is written does not count
} RankStatus;

// The calling process: host, place, pid, started; the rest is zero.
void rank_status_self(RankStatus *status);

// Writes the whole file in one call, and closes it, as NFS shows a file to the other machines only when it is closed.
// Errors: 2, 1; *status is as before but for check.
int rank_status_write(RankStatus *status, const char *folder, Error *err);

// Opens the file again, as NFS asks the server for what is new only then. False: no such file, or none of this run and
// rank, or half-written.
bool rank_status_read(RankStatus *status, const char *folder, uint64_t run, int rank);

// Whether the process can be seen from this one, and what became of it.
typedef enum { PROCESS_UNKNOWN, PROCESS_LIVES, PROCESS_STOPPED, PROCESS_GONE } ProcessState;
ProcessState rank_process(const RankStatus *status, const RankStatus *self);

#ifdef __cplusplus
}
#endif
#endif
