#include "nccl_meeting.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const char MAGIC[8] = "standin";
static const size_t HEADER = (sizeof(Shared) + 4095) / 4096 * 4096;
static const size_t BYTES = HEADER + (size_t)2 * MAX_RANKS * WINDOW; // only what is used takes memory

// ---- waiting

static long futex(std::atomic<uint32_t> *word, int what, uint32_t value, const timespec *patience) {
    return syscall(SYS_futex, reinterpret_cast<uint32_t *>(word), what, value, patience, nullptr, 0);
}

// False: give_up said so.
template <typename GiveUp> static bool wait(Barrier *barrier, int size, GiveUp give_up) {
    const uint32_t generation = barrier->generation.load();
    if (barrier->arrived.fetch_add(1) + 1 == (uint32_t)size) {
        barrier->arrived.store(0);
        barrier->generation.fetch_add(1);
        futex(&barrier->generation, FUTEX_WAKE, INT32_MAX, nullptr);
        return true;
    }
    const timespec patience = {0, PATIENCE_MS * 1000000L};
    while (barrier->generation.load() == generation) {
        if (give_up()) return false;
        futex(&barrier->generation, FUTEX_WAIT, generation, &patience);
    }
    return true;
}

bool meeting_wait(Meeting *meeting) {
    if (meeting->aborted) return false; // others may have come: they would take this rank for one of them
    return wait(&meeting->shared->streams, meeting->size, [&] { return meeting->aborted.load(); });
}

void meeting_abort(Meeting *meeting) {
    meeting->aborted = true;
    futex(&meeting->shared->streams.generation, FUTEX_WAKE, INT32_MAX, nullptr);
}

// ---- places

// Each process locks the byte of its rank, in a description of the file that is its own: the lock ends with the process.
static struct flock byte_of(int rank) {
    struct flock lock = {};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    lock.l_start = rank;
    lock.l_len = 1;
    return lock;
}

bool meeting_lost(const Meeting *meeting, int r) {
    const Place *place = &meeting->shared->places[r];
    if (r == meeting->rank || !place->taken) return false;
    struct flock lock = byte_of(r);
    if (fcntl(meeting->fd, F_OFD_GETLK, &lock) != 0 || lock.l_type != F_UNLCK) return false;
    return !place->left;
}

static bool one_is_lost(const Meeting *meeting) {
    for (int r = 0; r < meeting->size; r++)
        if (meeting_lost(meeting, r)) return true;
    return false;
}

ncclResult_t meeting_create(MeetingId *id) {
    memset(id, 0, sizeof *id);
    memcpy(id->magic, MAGIC, sizeof MAGIC);
    id->pid = getpid();
    id->fd = memfd_create("nccl", MFD_CLOEXEC);
    if (id->fd < 0 || ftruncate(id->fd, (off_t)BYTES) != 0 || getrandom(&id->nonce, sizeof id->nonce, 0) < 0 ||
        pwrite(id->fd, &id->nonce, sizeof id->nonce, offsetof(Shared, nonce)) < 0) {
        const int why = errno;
        if (id->fd >= 0) close(id->fd);
        return nccl_fail(ncclSystemError, "no shared memory: %s", strerror(why));
    }
    return ncclSuccess;
}

static ncclResult_t open_memory(Meeting *meeting, const MeetingId *id) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", id->pid, id->fd);
    if (memcmp(id->magic, MAGIC, sizeof MAGIC) != 0) return nccl_fail(ncclInvalidArgument, "the unique id is none");
    meeting->fd = open(path, O_RDWR | O_CLOEXEC);
    if (meeting->fd < 0)
        return nccl_fail(ncclRemoteError, "the process that made the unique id is not there: %s", strerror(errno));
    void *memory = mmap(nullptr, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, meeting->fd, 0);
    if (memory == MAP_FAILED) return nccl_fail(ncclSystemError, "no shared memory: %s", strerror(errno));
    meeting->shared = (Shared *)memory;
    if (meeting->shared->nonce == id->nonce) return ncclSuccess;
    return nccl_fail(ncclRemoteError, "the process that made the unique id is not there: another one has its number");
}

ncclResult_t meeting_join(Meeting *meeting, const MeetingId *id, int size, int rank) {
    meeting->size = size;
    meeting->rank = rank;
    const ncclResult_t result = open_memory(meeting, id);
    if (result != ncclSuccess) return result;
    uint32_t others = 0;
    if (!meeting->shared->size.compare_exchange_strong(others, (uint32_t)size) && others != (uint32_t)size)
        return nccl_fail(ncclInternalError, "mismatch in rank count from procs %u : %d", others, size);
    struct flock lock = byte_of(rank);
    // the lock first: a place that is taken without it is one whose rank has died
    if (fcntl(meeting->fd, F_OFD_SETLK, &lock) != 0 || meeting->shared->places[rank].taken.exchange(1))
        return nccl_fail(ncclInternalError, "rank %d of %d ranks has already checked in", rank, size);
    meeting->joined = true;
    return ncclSuccess;
}

void meeting_leave(Meeting *meeting) {
    if (meeting->shared) {
        if (meeting->joined) meeting->shared->places[meeting->rank].left = 1;
        munmap(meeting->shared, BYTES);
    }
    if (meeting->fd >= 0) close(meeting->fd);
    meeting->shared = nullptr;
    meeting->fd = -1;
}

// ---- what travels

char *meeting_window(const Meeting *meeting, int r, uint32_t turn) {
    return (char *)meeting->shared + HEADER + ((size_t)r * 2 + turn % 2) * WINDOW;
}

// Two cards a rank: nobody writes the one that others may still read, as that needs two more barriers.
ncclResult_t meeting_exchange(Meeting *meeting, void *all, const void *mine, size_t bytes) {
    const uint32_t turn = meeting->host_turn++ % 2;
    memcpy(meeting->shared->places[meeting->rank].card[turn], mine, bytes);
    if (!wait(&meeting->shared->hosts, meeting->size, [&] { return one_is_lost(meeting); }))
        return nccl_fail(ncclRemoteError, "socket closed by a peer: the process of a rank has ended");
    for (int r = 0; r < meeting->size; r++)
        memcpy((char *)all + (size_t)r * bytes, meeting->shared->places[r].card[turn], bytes);
    return ncclSuccess;
}
