// Memory that the processes of one communicator share. It has no name: one process makes it (memfd), the others open it
// through /proc, and it goes with the last process that has it, however that one ends.
#ifndef LLMC_STANDINS_NCCL_MEETING_H
#define LLMC_STANDINS_NCCL_MEETING_H

#include <atomic>
#include <nccl.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MAX_RANKS = 64,
    WINDOW = 1 << 20,  // bytes of a rank that travel at a time
    CARD = 192,        // bytes of a rank in an exchange
    PATIENCE_MS = 100, // a waiting process looks this often whether it is to give up
};

// What a process needs to find the memory; travels in an ncclUniqueId.
struct MeetingId {
    char magic[8];
    int32_t pid, fd;
    uint64_t nonce;
};
static_assert(sizeof(MeetingId) <= sizeof(ncclUniqueId), "travels in the id");

// All ranks wait for each other; used again and again.
struct Barrier {
    std::atomic<uint32_t> arrived, generation;
};

// One collective as a rank calls it; must be the same on all.
struct Call {
    uint64_t number; // of the communicator, from 1
    int32_t kind, type, op, root;
    uint64_t count;
};

struct Place { // of one rank
    std::atomic<uint32_t> taken, left;
    Call call[2];
    char card[2][CARD];
};

struct Shared {
    uint64_t nonce;
    std::atomic<uint32_t> size; // 0: no rank has come yet
    Barrier hosts, streams;     // of calls that wait on the host; of collectives
    Place places[MAX_RANKS];
};

// This process in the meeting. Errors have a text in nccl_fail.
struct Meeting {
    Shared *shared;
    int fd, rank, size;
    bool joined;                     // the place is this process's
    uint32_t host_turn, stream_turn; // of two halves of each buffer, the one that is used next
    std::atomic<bool> aborted;
};

// Remembers the text for ncclGetLastError, and returns `result`.
ncclResult_t nccl_fail(ncclResult_t result, const char *format, ...) __attribute__((format(printf, 2, 3)));

// Makes the memory. It is kept for this process too, which opens it as the others do.
ncclResult_t meeting_create(MeetingId *id);

// Takes the rank's place. Refused: a place that is taken, a size that is not the other ranks', a maker that is gone.
ncclResult_t meeting_join(Meeting *meeting, const MeetingId *id, int size, int rank);
void meeting_leave(Meeting *meeting);

// all[size][bytes] = every rank's mine[bytes], bytes <= CARD. Waits for all ranks on the host. ncclRemoteError: one of
// them died meanwhile.
ncclResult_t meeting_exchange(Meeting *meeting, void *all, const void *mine, size_t bytes);

// Waits for all ranks on a stream; false: the communicator was aborted. A rank that has died is waited for, as by the
// kernel of a GPU.
bool meeting_wait(Meeting *meeting);

// What rank r carries at this turn: WINDOW bytes.
char *meeting_window(const Meeting *meeting, int r, uint32_t turn);

// Whether the process of rank r has ended without leaving.
bool meeting_lost(const Meeting *meeting, int r);

// From any thread: those who wait in this process give up.
void meeting_abort(Meeting *meeting);

#endif
