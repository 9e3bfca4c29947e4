// Sums are made in the order of the ranks, ((x0 + x1) + x2) + ..., as llmc/comm/mpi_collectives.c does, so that NCCL's
// stand-in and MPI give the same bits. (The real one has other orders.)
#include "nccl_collective.h"

#include <algorithm>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <vector>

#include "cpu/streams.h"
#include "standins.h"

const char *const KIND_NAMES[KINDS] = {"AllReduce", "ReduceScatter", "AllGather", "Broadcast", "AlltoAll"};
static const char *const TYPE_NAMES[ncclNumTypes] = {"int8",    "uint8",    "int32",      "uint32",
                                                     "int64",   "uint64",   "float16",    "float32",
                                                     "float64", "bfloat16", "float8e4m3", "float8e5m2"};
const size_t WIDTHS[ncclNumTypes] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
static const unsigned char POISON = 0xFF; // NaN in every floating-point type

// ---- sizes

// What is sent and received, in bytes, and the place in the other's memory where in-place calls have theirs.
struct Extent {
    size_t send, receive, send_place, receive_place;
};

static Extent extent_of(const ncclComm *comm, const Arguments *a) {
    const size_t bytes = a->count * WIDTHS[a->type], size = (size_t)comm->meeting.size,
                 own = (size_t)comm->meeting.rank * bytes;
    if (a->kind == REDUCE_SCATTER) return {size * bytes, bytes, 0, own};
    if (a->kind == ALL_GATHER) return {bytes, size * bytes, own, 0};
    if (a->kind == ALL_TO_ALL) return {size * bytes, size * bytes, 0, 0};
    return {bytes, bytes, 0, 0};
}

static bool sends(const ncclComm *comm, const Arguments *a) {
    return a->kind != BROADCAST || comm->meeting.rank == a->root;
}

static bool is_in_place(const Arguments *a, const Extent *e) {
    return a->kind != ALL_TO_ALL &&
           (const char *)a->send + e->receive_place == (const char *)a->receive + e->send_place;
}

// ---- checks

static ncclResult_t check_memory(const char *call, const char *what, const void *memory, size_t bytes) {
    if (standin_on_device(memory, bytes)) return ncclSuccess;
    return nccl_fail(ncclInvalidArgument, "%s : %s %p of %zu bytes is not a valid pointer", call, what, memory, bytes);
}

static ncclResult_t check_overlap(const ncclComm *comm, const Arguments *a, const Extent *e) {
    const char *send = (const char *)a->send, *receive = (const char *)a->receive;
    if (!sends(comm, a) || is_in_place(a, e) || send + e->send <= receive || receive + e->receive <= send)
        return ncclSuccess;
    return nccl_fail(ncclInvalidUsage, "%s : sendbuff and recvbuff overlap, and not as an in-place call has them",
                     KIND_NAMES[a->kind]);
}

static bool can_add(const Arguments *a) { return a->op == ncclSum && (a->type == ncclFloat32 || a->type == ncclInt64); }

ncclResult_t collective_check(const ncclComm *comm, const Arguments *a) {
    const char *name = KIND_NAMES[a->kind];
    if (a->root < 0 || a->root >= comm->meeting.size)
        return nccl_fail(ncclInvalidArgument, "%s : invalid root %d (root should be in the 0..%d range)", name, a->root,
                         comm->meeting.size);
    if ((int)a->type < 0 || a->type >= ncclNumTypes)
        return nccl_fail(ncclInvalidArgument, "%s : invalid type %d", name, a->type);
    if ((int)a->op < 0 || a->op >= ncclNumOps)
        return nccl_fail(ncclInvalidArgument, "%s : invalid reduction operation %d", name, a->op);
    if (comm->finalized) return nccl_fail(ncclInvalidUsage, "%s : the communicator was finalized", name);
    if (a->kind <= REDUCE_SCATTER && !can_add(a))
        return nccl_fail(ncclInvalidUsage, "%s : the stand-in adds up float32 and int64, no more", name);
    if (a->count == 0) return ncclSuccess;
    const Extent e = extent_of(comm, a);
    ncclResult_t result = sends(comm, a) ? check_memory(name, "sendbuff", a->send, e.send) : ncclSuccess;
    if (result == ncclSuccess) result = check_memory(name, "recvbuff", a->receive, e.receive);
    return result == ncclSuccess ? check_overlap(comm, a, &e) : result;
}

// ---- under way

// What the work on the stream knows of a call.
struct Work {
    std::shared_ptr<ncclComm> comm;
    Arguments a;
    uint64_t number;
    std::vector<char> sent; // a copy of what is sent
};

[[noreturn]] __attribute__((format(printf, 2, 3))) static void end(const Work *work, const char *format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(stderr, "nccl stand-in: rank %d of %d: %s, call %lu: %s\n", work->comm->meeting.rank,
            work->comm->meeting.size, KIND_NAMES[work->a.kind], (unsigned long)work->number, text);
    _exit(1);
}

// Takes what is sent; from here on nobody may read or write the result's memory, nor write what is sent.
static void start(Work *work) {
    const Extent e = extent_of(work->comm.get(), &work->a);
    const char *send = (const char *)work->a.send;
    if (sends(work->comm.get(), &work->a)) work->sent.assign(send, send + e.send);
    if (work->a.kind == BROADCAST && !work->sent.empty() && is_in_place(&work->a, &e)) return;
    char *receive = (char *)work->a.receive, *own = receive + e.send_place;
    memset(receive, POISON, e.receive);
    // an all-gather in place receives around what it sends
    if (work->a.kind == ALL_GATHER && is_in_place(&work->a, &e)) memcpy(own, work->sent.data(), e.send);
}

static void check_untouched(const Work *work) {
    const Extent e = extent_of(work->comm.get(), &work->a);
    const char *send = (const char *)work->a.send, *receive = (const char *)work->a.receive;
    const bool in_place = !work->sent.empty() && is_in_place(&work->a, &e);
    const bool keeps = !in_place || work->a.kind == ALL_GATHER || work->a.kind == BROADCAST;
    if (keeps && !work->sent.empty() && memcmp(send, work->sent.data(), e.send) != 0)
        end(work, "sendbuff was written while the collective was under way");
    if (in_place && work->a.kind == BROADCAST) return;
    const size_t own = in_place && work->a.kind == ALL_GATHER ? e.send_place : e.receive;
    for (size_t i = 0; i < e.receive; i++)
        if ((i < own || i >= own + e.send) && (unsigned char)receive[i] != POISON)
            end(work, "recvbuff was written while the collective was under way");
}

// ---- exchange

static Call call_of(const Work *work) {
    const Arguments *a = &work->a;
    return {work->number, a->kind, a->type, a->op, a->root, a->count};
}

static void describe(char *text, size_t size, const Call *call) {
    snprintf(text, size, "call %lu, %s of %lu %s, op %d, root %d", (unsigned long)call->number, KIND_NAMES[call->kind],
             (unsigned long)call->count, TYPE_NAMES[call->type], call->op, call->root);
}

// All ranks have come with a call; it must be one and the same.
static void compare_calls(const Work *work, uint32_t turn) {
    const Place *places = work->comm->meeting.shared->places;
    const Call *first = &places[0].call[turn % 2];
    for (int r = 1; r < work->comm->meeting.size; r++) {
        const Call *other = &places[r].call[turn % 2];
        if (memcmp(first, other, sizeof *first) == 0) continue;
        char one[128], two[128];
        describe(one, sizeof one, first);
        describe(two, sizeof two, other);
        end(work, "ranks differ. Rank 0: %s; rank %d: %s", one, r, two);
    }
}

template <typename T> static void add_ranks(const Meeting *m, uint32_t turn, size_t offset, size_t n, T *out) {
    memcpy(out, (const T *)meeting_window(m, 0, turn) + offset, n * sizeof *out);
    for (int r = 1; r < m->size; r++) {
        const T *more = (const T *)meeting_window(m, r, turn) + offset;
        for (size_t i = 0; i < n; i++) out[i] += more[i];
    }
}

// Blocks that a rank sends: each to another rank, or one that all see.
static size_t blocks_of(const Work *work) {
    const bool to_each = work->a.kind == REDUCE_SCATTER || work->a.kind == ALL_TO_ALL;
    return to_each ? (size_t)work->comm->meeting.size : 1;
}

// The elements [at, at + n) of each block.
static void send_piece(const Work *work, uint32_t turn, size_t at, size_t n) {
    const Meeting *m = &work->comm->meeting;
    const size_t width = WIDTHS[work->a.type];
    char *window = meeting_window(m, m->rank, turn);
    for (size_t b = 0; b < blocks_of(work) && !work->sent.empty(); b++)
        memcpy(window + b * n * width, work->sent.data() + (b * work->a.count + at) * width, n * width);
}

static void receive_piece(const Work *work, uint32_t turn, size_t at, size_t n) {
    const Meeting *m = &work->comm->meeting;
    const size_t width = WIDTHS[work->a.type];
    const size_t offset = blocks_of(work) > 1 ? (size_t)m->rank * n : 0;
    char *out = (char *)work->a.receive + at * width;
    if (work->a.kind == BROADCAST)
        memcpy(out, meeting_window(m, work->a.root, turn), n * width);
    else if (work->a.kind == ALL_GATHER || work->a.kind == ALL_TO_ALL)
        for (int r = 0; r < m->size; r++)
            memcpy(out + (size_t)r * work->a.count * width, meeting_window(m, r, turn) + offset * width, n * width);
    else if (work->a.type == ncclFloat32)
        add_ranks(m, turn, offset, n, (float *)out);
    else
        add_ranks(m, turn, offset, n, (int64_t *)out);
}

// Who waits for all ranks before each piece has read what was sent two pieces before, so that two windows are enough.
static bool exchange(const Work *work) {
    Meeting *m = &work->comm->meeting;
    const size_t piece = WINDOW / WIDTHS[work->a.type] / blocks_of(work);
    for (size_t at = 0; at < work->a.count; at += piece) {
        const uint32_t turn = m->stream_turn++;
        const size_t n = std::min(piece, work->a.count - at);
        m->shared->places[m->rank].call[turn % 2] = call_of(work);
        send_piece(work, turn, at, n);
        if (!meeting_wait(m)) return false;
        compare_calls(work, turn);
        receive_piece(work, turn, at, n);
    }
    return true;
}

static void finish(Work *work) {
    check_untouched(work);
    exchange(work); // after an abort the result stays NaN
    work->comm->finished++;
}

void collective_queue(const std::shared_ptr<ncclComm> &comm, const Arguments *a, cudaStream_t stream) {
    auto work = std::make_shared<Work>(Work{comm, *a, ++comm->called, {}});
    HostStream *host = (HostStream *)stream;
    comm->stream = stream;
    host_queue(host, [=] { start(work.get()); });
    for (int i = 0; i < 2; i++) host_queue(host, [] {}); // other streams may go on in between
    host_queue(host, [=] { finish(work.get()); });
}
