// Stands in for NCCL where there is no GPU: the functions that llmc/comm/nccl_*.c call, behind NVIDIA's own header, for the processes of one machine. Arguments are checked as NCCL checks them, or more strictly where its
// documentation asks for something that it does not check; codes and texts are NCCL's where a user sees them.
//
// LLMC_STANDIN_NCCL_FAIL=NAME:N   the N-th call of that function fails
//
// As with the real one, collectives wait forever for a rank that has died: ncclCommGetAsyncError tells of it, and
// ncclCommAbort ends the waiting.
#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <unistd.h>
#include <vector>

#include "nccl_collective.h"
#include "standins.h"

static std::mutex lock; // guards what follows
static std::map<ncclComm *, std::shared_ptr<ncclComm>> comms;
static std::string last_error;
static long planted_calls;

// ---- errors

ncclResult_t nccl_fail(ncclResult_t result, const char *format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    standin_tell("NCCL", "%s", text);
    std::lock_guard<std::mutex> hold(lock);
    last_error = text;
    return result;
}

extern "C" const char *ncclGetLastError(ncclComm_t) {
    static thread_local std::string kept;
    std::lock_guard<std::mutex> hold(lock);
    kept = last_error;
    return kept.c_str();
}

extern "C" const char *ncclGetErrorString(ncclResult_t result) {
    static const char *const texts[ncclNumResults] = {
        "no error",
        "unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
        "unhandled system error (run with NCCL_DEBUG=INFO for details)",
        "internal error - please report this issue to the NCCL developers",
        "invalid argument (run with NCCL_DEBUG=WARN for details)",
        "invalid usage (run with NCCL_DEBUG=WARN for details)",
        "remote process exited or there was a network error",
        "NCCL operation in progress"};
    return result >= 0 && result < ncclNumResults ? texts[result] : "unknown result code";
}

// Whether this call of the function is the one that is to fail.
static bool is_planted(const char *name) {
    const char *planted = getenv("LLMC_STANDIN_NCCL_FAIL");
    const size_t length = strlen(name);
    if (!planted || strncmp(planted, name, length) != 0 || planted[length] != ':') return false;
    std::lock_guard<std::mutex> hold(lock);
    return ++planted_calls == atol(planted + length + 1);
}

#define FAIL_IF_PLANTED(name)                                                                                          \
    if (is_planted(name)) return nccl_fail(ncclInternalError, "%s: planted by LLMC_STANDIN_NCCL_FAIL", name)

// ---- communicators

static std::shared_ptr<ncclComm> find(ncclComm_t comm) {
    std::lock_guard<std::mutex> hold(lock);
    auto at = comms.find(comm);
    return at == comms.end() ? nullptr : at->second;
}

static ncclResult_t not_a_comm(const char *call, ncclComm_t comm) {
    if (!comm) return nccl_fail(ncclInvalidArgument, "%s : comm argument is NULL", call);
    return nccl_fail(ncclInvalidArgument, "%s : corrupted comm object detected: destroyed, aborted, or none", call);
}

static ncclResult_t check_config(const ncclConfig_t *config) {
    const ncclConfig_t expected = NCCL_CONFIG_INITIALIZER;
    if (!config) return ncclSuccess;
    if (config->magic != expected.magic || config->size != expected.size)
        return nccl_fail(ncclInvalidArgument, "ncclConfig_t argument not initialized via NCCL_CONFIG_INITIALIZER");
    if (config->blocking == 1 || config->blocking == NCCL_CONFIG_UNDEF_INT) return ncclSuccess;
    return nccl_fail(ncclInvalidArgument, "Invalid config blocking attribute value %d (the stand-in has 1)",
                     config->blocking);
}

static ncclResult_t check_devices(Meeting *meeting, const char *own) {
    char all[MAX_RANKS][sizeof ncclComm::device];
    const ncclResult_t result = meeting_exchange(meeting, all, own, sizeof all[0]);
    if (result != ncclSuccess) return result;
    for (int i = 0; i < meeting->size; i++)
        for (int j = i + 1; j < meeting->size; j++)
            if (strcmp(all[i], all[j]) == 0)
                return nccl_fail(ncclInvalidUsage,
                                 "Duplicate GPU detected : rank %d and rank %d both on CUDA device %s", i, j, all[i]);
    return ncclSuccess;
}

// Collective.
static ncclResult_t open_comm(ncclComm_t *out, const MeetingId *id, int size, int rank) {
    auto comm = std::make_shared<ncclComm>();
    comm->meeting.fd = -1;
    int device;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetPCIBusId(comm->device, sizeof comm->device, device) != cudaSuccess)
        return nccl_fail(ncclUnhandledCudaError, "Cuda failure '%s'", cudaGetErrorString(cudaGetLastError()));
    ncclResult_t result = meeting_join(&comm->meeting, id, size, rank);
    if (result == ncclSuccess) result = check_devices(&comm->meeting, comm->device);
    if (id->pid == getpid()) close(id->fd); // all have opened it
    if (result != ncclSuccess) {
        meeting_leave(&comm->meeting);
        return result;
    }
    std::lock_guard<std::mutex> hold(lock);
    comms[ *out = comm.get()] = comm;
    return ncclSuccess;
}

static void forget(const std::shared_ptr<ncclComm> &comm) {
    std::lock_guard<std::mutex> hold(lock);
    comms.erase(comm.get());
}

// Work on a stream may still have the communicator: what is shared goes with the last of them.
ncclComm::~ncclComm() { meeting_leave(&meeting); }

static bool is_under_way(const ncclComm *comm) { return comm->finished < comm->called; }

// ---- beginning and end

extern "C" ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    FAIL_IF_PLANTED("ncclGetUniqueId");
    if (!id) return nccl_fail(ncclInvalidArgument, "GetUniqueId : out argument is NULL");
    memset(id, 0, sizeof *id);
    return meeting_create((MeetingId *)id);
}

extern "C" ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int size, ncclUniqueId id, int rank,
                                               ncclConfig_t *config) {
    FAIL_IF_PLANTED("ncclCommInitRankConfig");
    if (!out) return nccl_fail(ncclInvalidArgument, "CommInitRankConfig : comm argument is NULL");
    if (size < 1 || rank < 0 || rank >= size || size > MAX_RANKS)
        return nccl_fail(ncclInvalidArgument, "Invalid rank requested : %d/%d", rank, size);
    const ncclResult_t result = check_config(config);
    MeetingId meeting;
    memcpy(&meeting, &id, sizeof meeting);
    return result == ncclSuccess ? open_comm(out, &meeting, size, rank) : result;
}

struct Member {           // of a new group
    int color, key, rank; // in the parent
};

// The ranks of this one's color, by key and then by rank in the parent.
static std::vector<Member> members_of(const Member *all, int size, const Member *own) {
    std::vector<Member> members;
    std::copy_if(all, all + size, std::back_inserter(members), [&](const Member &m) { return m.color == own->color; });
    std::stable_sort(members.begin(), members.end(), [](const Member &a, const Member &b) { return a.key < b.key; });
    return members;
}

static ncclResult_t split(ncclComm *parent, int color, int key, ncclComm_t *out) {
    Member own = {color, key, parent->meeting.rank}, all[MAX_RANKS];
    MeetingId id = {}, ids[MAX_RANKS];
    ncclResult_t result = meeting_exchange(&parent->meeting, all, &own, sizeof own);
    if (result != ncclSuccess) return result;
    const std::vector<Member> members = members_of(all, parent->meeting.size, &own);
    if (color >= 0 && members[0].rank == own.rank) result = meeting_create(&id);
    if (result == ncclSuccess) result = meeting_exchange(&parent->meeting, ids, &id, sizeof id);
    if (result != ncclSuccess || color < 0) return result;
    int rank = 0;
    while (members[(size_t)rank].rank != own.rank) rank++;
    return open_comm(out, &ids[members[0].rank], (int)members.size(), rank);
}

extern "C" ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t *out, ncclConfig_t *config) {
    FAIL_IF_PLANTED("ncclCommSplit");
    auto parent = find(comm);
    if (!parent) return not_a_comm("CommSplit", comm);
    if (!out) return nccl_fail(ncclInvalidArgument, "CommSplit : newcomm argument is NULL");
    if (color < 0 && color != NCCL_SPLIT_NOCOLOR)
        return nccl_fail(ncclInvalidArgument, "CommSplit : color %d is negative", color);
    if (is_under_way(parent.get()))
        return nccl_fail(ncclInvalidUsage,
                         "CommSplit : collectives of the communicator are under way, which may deadlock");
    const ncclResult_t result = check_config(config);
    *out = nullptr;
    return result == ncclSuccess ? split(parent.get(), color, key, out) : result;
}

// All that was queued ends before, on all ranks.
extern "C" ncclResult_t ncclCommFinalize(ncclComm_t handle) {
    FAIL_IF_PLANTED("ncclCommFinalize");
    if (!handle) return ncclSuccess;
    auto comm = find(handle);
    if (!comm) return not_a_comm("CommFinalize", handle);
    if (comm->finalized) return nccl_fail(ncclInvalidArgument, "CommFinalize : the communicator was finalized already");
    comm->finalized = true;
    if (is_under_way(comm.get()) && cudaStreamSynchronize(comm->stream) != cudaSuccess)
        return nccl_fail(ncclUnhandledCudaError, "CommFinalize : the stream failed");
    char nothing = 0, all[MAX_RANKS];
    return meeting_exchange(&comm->meeting, all, &nothing, sizeof nothing);
}

extern "C" ncclResult_t ncclCommDestroy(ncclComm_t handle) {
    FAIL_IF_PLANTED("ncclCommDestroy");
    if (!handle) return ncclSuccess;
    auto comm = find(handle);
    if (!comm) return not_a_comm("CommDestroy", handle);
    const ncclResult_t result = comm->finalized ? ncclSuccess : ncclCommFinalize(handle);
    forget(comm);
    return result;
}

extern "C" ncclResult_t ncclCommAbort(ncclComm_t handle) {
    FAIL_IF_PLANTED("ncclCommAbort");
    if (!handle) return ncclSuccess;
    auto comm = find(handle);
    if (!comm) return not_a_comm("CommAbort", handle);
    forget(comm); // before the waiting ends: whoever it kept finds the communicator gone
    meeting_abort(&comm->meeting);
    return ncclSuccess;
}

// ---- questions

// As where NCCL notices that a connection is closed.
static ncclResult_t async_error(ncclComm *comm) {
    for (int r = 0; r < comm->meeting.size && !comm->lost; r++) {
        if (!meeting_lost(&comm->meeting, r)) continue;
        comm->lost = true;
        nccl_fail(ncclRemoteError, "socket closed by rank %d: its process has ended", r);
    }
    return comm->lost ? ncclRemoteError : ncclSuccess;
}

extern "C" ncclResult_t ncclCommGetAsyncError(ncclComm_t handle, ncclResult_t *error) {
    FAIL_IF_PLANTED("ncclCommGetAsyncError");
    auto comm = find(handle);
    if (!comm) return not_a_comm("ncclGetAsyncError", handle);
    if (!error) return nccl_fail(ncclInvalidArgument, "ncclGetAsyncError : asyncError argument is NULL");
    *error = async_error(comm.get());
    return ncclSuccess;
}

extern "C" ncclResult_t ncclCommCount(const ncclComm_t handle, int *count) {
    FAIL_IF_PLANTED("ncclCommCount");
    auto comm = find(handle);
    if (!comm) return not_a_comm("CommCount", handle);
    if (!count) return nccl_fail(ncclInvalidArgument, "CommCount : count argument is NULL");
    *count = comm->meeting.size;
    return ncclSuccess;
}

extern "C" ncclResult_t ncclCommUserRank(const ncclComm_t handle, int *rank) {
    FAIL_IF_PLANTED("ncclCommUserRank");
    auto comm = find(handle);
    if (!comm) return not_a_comm("CommUserRank", handle);
    if (!rank) return nccl_fail(ncclInvalidArgument, "CommUserRank : rank argument is NULL");
    *rank = comm->meeting.rank;
    return ncclSuccess;
}

// ---- collectives

static ncclResult_t collective(ncclComm_t handle, const Arguments *a, cudaStream_t stream) {
    auto comm = find(handle);
    if (!comm) return not_a_comm(KIND_NAMES[a->kind], handle);
    ncclResult_t result = async_error(comm.get()); // a communicator that has failed takes no more
    if (result == ncclSuccess) result = collective_check(comm.get(), a);
    if (result != ncclSuccess || a->count == 0) return result;
    collective_queue(comm, a, stream);
    return ncclSuccess;
}

extern "C" ncclResult_t ncclAllReduce(const void *send, void *receive, size_t count, ncclDataType_t type,
                                      ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
    FAIL_IF_PLANTED("ncclAllReduce");
    const Arguments a = {ALL_REDUCE, send, receive, count, type, op, 0};
    return collective(comm, &a, stream);
}

extern "C" ncclResult_t ncclReduceScatter(const void *send, void *receive, size_t count, ncclDataType_t type,
                                          ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
    FAIL_IF_PLANTED("ncclReduceScatter");
    const Arguments a = {REDUCE_SCATTER, send, receive, count, type, op, 0};
    return collective(comm, &a, stream);
}

extern "C" ncclResult_t ncclAllGather(const void *send, void *receive, size_t count, ncclDataType_t type,
                                      ncclComm_t comm, cudaStream_t stream) {
    FAIL_IF_PLANTED("ncclAllGather");
    const Arguments a = {ALL_GATHER, send, receive, count, type, ncclSum, 0};
    return collective(comm, &a, stream);
}

extern "C" ncclResult_t ncclBroadcast(const void *send, void *receive, size_t count, ncclDataType_t type, int root,
                                      ncclComm_t comm, cudaStream_t stream) {
    FAIL_IF_PLANTED("ncclBroadcast");
    const Arguments a = {BROADCAST, send, receive, count, type, ncclSum, root};
    return collective(comm, &a, stream);
}

// ---- from rank to rank: the calls of a group in which each rank sends a block to every rank and receives one from each, blocks
// of one length side by side: an all-to-all. Others are refused.

struct Transfer {
    bool sends;
    ncclComm_t comm;
    const char *memory;
    size_t count;
    ncclDataType_t type;
    int peer;
    cudaStream_t stream;
};
static thread_local std::vector<Transfer> transfers; // of the group that was started
static thread_local bool grouped;

static ncclResult_t transfer(const char *name, const Transfer &t) {
    auto comm = find(t.comm);
    if (!comm) return not_a_comm(name, t.comm);
    if (t.peer < 0 || t.peer >= comm->meeting.size)
        return nccl_fail(ncclInvalidArgument, "%s : invalid root %d (root should be in the 0..%d range)", name, t.peer,
                         comm->meeting.size);
    if ((int)t.type < 0 || t.type >= ncclNumTypes)
        return nccl_fail(ncclInvalidArgument, "%s : invalid type %d", name, t.type);
    if (!grouped) return nccl_fail(ncclInvalidUsage, "%s : the stand-in sends and receives in groups alone", name);
    transfers.push_back(t);
    return ncclSuccess;
}

static ncclResult_t all_to_all(const std::vector<Transfer> &all) {
    const Transfer &first = all[0];
    auto comm = find(first.comm);
    if (!comm) return not_a_comm("GroupEnd", first.comm);
    const char *begin[2] = {}; // of the blocks: received, sent
    for (const Transfer &t : all)
        if (t.peer == 0) begin[t.sends] = t.memory;
    std::set<std::pair<bool, int>> seen;
    for (const Transfer &t : all) {
        const bool alike = t.comm == first.comm && t.count == first.count && t.type == first.type;
        const bool in_place = t.memory == begin[t.sends] + (size_t)t.peer * t.count * WIDTHS[t.type];
        if (alike && in_place && t.stream == first.stream) seen.insert({t.sends, t.peer});
    }
    if (seen.size() != all.size() || all.size() != 2 * (size_t)comm->meeting.size)
        return nccl_fail(ncclInvalidUsage, "GroupEnd : the stand-in knows groups that are an all-to-all, no others");
    const Arguments a = {ALL_TO_ALL, begin[1], (char *)begin[0], first.count, first.type, ncclSum, 0};
    return collective(first.comm, &a, first.stream);
}

extern "C" ncclResult_t ncclGroupStart() {
    FAIL_IF_PLANTED("ncclGroupStart");
    if (grouped) return nccl_fail(ncclInvalidUsage, "GroupStart : the stand-in has no groups within groups");
    grouped = true;
    return ncclSuccess;
}

extern "C" ncclResult_t ncclGroupEnd() {
    FAIL_IF_PLANTED("ncclGroupEnd");
    if (!grouped) return nccl_fail(ncclInvalidUsage, "GroupEnd : no group was started");
    grouped = false;
    const std::vector<Transfer> all = std::move(transfers);
    transfers.clear();
    return all.empty() ? ncclSuccess : all_to_all(all);
}

extern "C" ncclResult_t ncclSend(const void *memory, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                                 cudaStream_t stream) {
    FAIL_IF_PLANTED("ncclSend");
    return transfer("Send", {true, comm, (const char *)memory, count, type, peer, stream});
}

extern "C" ncclResult_t ncclRecv(void *memory, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                                 cudaStream_t stream) {
    FAIL_IF_PLANTED("ncclRecv");
    return transfer("Recv", {false, comm, (const char *)memory, count, type, peer, stream});
}
