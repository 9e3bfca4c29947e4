// Collectives by NCCL on a stream of their own, of high priority, so that the kernels of compute queued beside them do
// not hold them up.
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/nccl_collectives.h"
#include "device/device.h"
#include "device/trace.h"

_Static_assert(NCCL_ID_BYTES == sizeof(ncclUniqueId), "an id of NCCL travels as it is");

enum { SLOTS = 256, WAITS = 256 };

typedef struct {
    cudaEvent_t ready;         // what the caller's stream held is done
    cudaEvent_t started, done; // on our stream
    bool on_device;            // its time counts
    char label[sizeof((CommStatus *)NULL)->label];
} Slot;

typedef struct {
    cudaEvent_t from, to; // around a wait, on the stream that waits
} Wait;

typedef struct {
    cudaStream_t stream;
    pthread_mutex_t lock; // guards what follows, up to `exposed`; never held while something is waited for
    Slot slots[SLOTS];    // number i is in slots[i % SLOTS]
    Wait waits[WAITS];
    uint64_t queued, begun, ended;
    uint64_t waits_queued, waits_ended;
    const char *calling; // label of a collective that is being handed to NCCL, which may wait for other ranks there
    double busy, exposed;
    char *host, *device; // what host collectives travel through
    size_t room;
    atomic_bool failed;
} Nccl;

// ---- what has ended

static bool is_reached(cudaEvent_t event) {
    if (cudaEventQuery(event) == cudaSuccess) return true;
    cudaGetLastError(); // "not ready" is no error
    return false;
}

static double seconds_between(cudaEvent_t from, cudaEvent_t to) {
    float milliseconds = 0;
    return cudaEventElapsedTime(&milliseconds, from, to) == cudaSuccess ? 1e-3 * milliseconds : 0;
}

// Brings the counts up to date; with the lock held.
static void look(Nccl *nccl) {
    for (; nccl->ended < nccl->queued; nccl->ended++) {
        const Slot *slot = &nccl->slots[(nccl->ended + 1) % SLOTS];
        if (!is_reached(slot->done)) break;
        if (slot->on_device) nccl->busy += seconds_between(slot->started, slot->done);
    }
    if (nccl->begun < nccl->ended) nccl->begun = nccl->ended;
    while (nccl->begun < nccl->queued && is_reached(nccl->slots[(nccl->begun + 1) % SLOTS].started)) nccl->begun++;
    for (; nccl->waits_ended < nccl->waits_queued; nccl->waits_ended++) {
        const Wait *wait = &nccl->waits[(nccl->waits_ended + 1) % WAITS];
        if (!is_reached(wait->to)) break;
        nccl->exposed += seconds_between(wait->from, wait->to);
    }
}

// Waits for the oldest collective (or the oldest wait) where all room is taken.
static void make_room(Nccl *nccl) {
    pthread_mutex_lock(&nccl->lock);
    look(nccl);
    cudaEvent_t collective = NULL, wait = NULL;
    if (nccl->queued - nccl->ended == SLOTS) collective = nccl->slots[(nccl->ended + 1) % SLOTS].done;
    if (nccl->waits_queued - nccl->waits_ended == WAITS) wait = nccl->waits[(nccl->waits_ended + 1) % WAITS].to;
    pthread_mutex_unlock(&nccl->lock);
    if (collective) cuda_check(cudaEventSynchronize(collective));
    if (wait) cuda_check(cudaEventSynchronize(wait));
    pthread_mutex_lock(&nccl->lock);
    look(nccl);
    pthread_mutex_unlock(&nccl->lock);
}

// ---- collectives

// The slot of the next number, which other threads now see as being handed to NCCL.
static Slot *take_slot(Nccl *nccl, const char *label) {
    Slot *slot = &nccl->slots[(nccl->queued + 1) % SLOTS];
    pthread_mutex_lock(&nccl->lock);
    strncpy(slot->label, label, sizeof slot->label - 1);
    nccl->calling = slot->label;
    pthread_mutex_unlock(&nccl->lock);
    return slot;
}

static uint64_t nccl_begin(World *world, const Collective *c, const char *label, cudaStream_t after) {
    Nccl *nccl = world->state;
    make_room(nccl);
    Slot *slot = take_slot(nccl, label);
    slot->on_device = c->kind <= DEVICE_BROADCAST;
    if (slot->on_device) {
        cuda_check(cudaEventRecord(slot->ready, after));
        cuda_check(cudaStreamWaitEvent(nccl->stream, slot->ready, 0));
    }
    cuda_check(cudaEventRecord(slot->started, nccl->stream));
    trace_begin(LANE_COMMUNICATION, slot->label, -1, nccl->stream);
    nccl_collective(nccl->stream, nccl->host, nccl->device, c);
    trace_end(LANE_COMMUNICATION, nccl->stream);
    cuda_check(cudaEventRecord(slot->done, nccl->stream));
    pthread_mutex_lock(&nccl->lock);
    nccl->calling = NULL;
    const uint64_t number = ++nccl->queued;
    pthread_mutex_unlock(&nccl->lock);
    return number;
}

// A slot serves a later collective only when this one has ended.
static bool has_ended(Nccl *nccl, uint64_t number) {
    pthread_mutex_lock(&nccl->lock);
    look(nccl);
    const bool ended = nccl->ended >= number;
    pthread_mutex_unlock(&nccl->lock);
    return ended;
}

static void nccl_wait(World *world, uint64_t number, cudaStream_t stream) {
    Nccl *nccl = world->state;
    if (has_ended(nccl, number)) return;
    make_room(nccl);
    const Wait *wait = &nccl->waits[(nccl->waits_queued + 1) % WAITS];
    cuda_check(cudaEventRecord(wait->from, stream));
    cuda_check(cudaStreamWaitEvent(stream, nccl->slots[number % SLOTS].done, 0));
    cuda_check(cudaEventRecord(wait->to, stream));
    pthread_mutex_lock(&nccl->lock);
    nccl->waits_queued++;
    pthread_mutex_unlock(&nccl->lock);
}

static void nccl_finish(World *world, uint64_t number) {
    Nccl *nccl = world->state;
    if (!has_ended(nccl, number)) cuda_check(cudaEventSynchronize(nccl->slots[number % SLOTS].done));
}

// ---- host collectives

static void reserve(Nccl *nccl, size_t bytes) {
    if (bytes <= nccl->room) return;
    cuda_check(cudaFreeHost(nccl->host)); // nothing uses them: host collectives wait
    cuda_check(cudaFree(nccl->device));
    nccl->room = bytes < 65536 ? 65536 : bytes;
    cuda_check(cudaMallocHost((void **)&nccl->host, nccl->room));
    cuda_check(cudaMalloc((void **)&nccl->device, nccl->room));
}

static void nccl_run_host(World *world, const Collective *collective, const char *label) {
    Nccl *nccl = world->state;
    int64_t nothing = 0;
    Collective c = *collective;
    if (c.kind == HOST_BARRIER) c = (Collective){HOST_SUM, c.comm, NULL, &nothing, 1, 0, NULL};
    const size_t bytes = c.kind == HOST_SUM ? c.count * sizeof(int64_t) : c.count;
    const bool gathers = c.kind == HOST_GATHER;
    const size_t all = gathers ? (size_t)c.comm->size * bytes : bytes;
    reserve(nccl, all);
    memcpy(nccl->host + (gathers ? (size_t)c.comm->rank * bytes : 0), gathers ? c.in : c.out, bytes);
    nccl_finish(world, nccl_begin(world, &c, label, NULL));
    memcpy(c.out, nccl->host, all);
}

// ---- what is going on

static void nccl_status(World *world, CommStatus *status) {
    Nccl *nccl = world->state;
    cuda_check(cudaSetDevice(world->device)); // the caller may be a thread that has none, and would make one of GPU 0
    pthread_mutex_lock(&nccl->lock);
    look(nccl);
    const bool in_call = nccl->calling && nccl->begun == nccl->ended;
    status->begun = nccl->begun + in_call;
    status->ended = nccl->ended;
    const char *label = in_call ? nccl->calling : nccl->slots[nccl->begun % SLOTS].label;
    memcpy(status->label, label, sizeof status->label);
    pthread_mutex_unlock(&nccl->lock);
}

static int check_group(Nccl *nccl, ncclComm_t group, Error *err) {
    ncclResult_t state = ncclSuccess;
    ncclResult_t asked = ncclCommGetAsyncError(group, &state);
    if (asked == ncclSuccess && (state == ncclSuccess || state == ncclInProgress)) return 0;
    nccl->failed = true;
    return fail_fault(err, "NCCL reports: %s: %s", ncclGetErrorString(asked == ncclSuccess ? state : asked),
                      ncclGetLastError(group));
}

static int nccl_check_world(World *world, Error *err) {
    int code = check_group(world->state, nccl_group(world->comm), err);
    for (const Comm *comm = world->groups; !code && comm; comm = comm->next)
        code = check_group(world->state, nccl_group(comm), err);
    return code;
}

static void nccl_times(World *world, double *busy, double *exposed) {
    Nccl *nccl = world->state;
    pthread_mutex_lock(&nccl->lock);
    look(nccl);
    *busy = nccl->busy;
    *exposed = nccl->exposed;
    nccl->busy = nccl->exposed = 0;
    pthread_mutex_unlock(&nccl->lock);
}

// ---- beginning and end

static int nccl_split(Comm *out, int color, Error *err) {
    (void)err; // a fault of NCCL's ends the program
    World *world = out->world;
    ncclComm_t group;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    // a rank that went on could not tell the others, who wait here
    nccl_check(ncclCommSplit(nccl_group(world->comm), color, world->start.rank, &group, &config));
    out->group = group;
    nccl_check(ncclCommCount(group, &out->size));
    nccl_check(ncclCommUserRank(group, &out->rank));
    return 0;
}

// After an error ranks no longer wait for each other: what NCCL has under way is broken off.
static void end_group(const Nccl *nccl, Comm *comm) {
    if (!comm || !comm->group) return;
    if (nccl->failed) {
        ncclCommAbort(nccl_group(comm));
        return;
    }
    nccl_check(ncclCommFinalize(nccl_group(comm)));
    nccl_check(ncclCommDestroy(nccl_group(comm)));
}

static void destroy_events(Nccl *nccl) {
    for (int i = 0; i < SLOTS; i++) {
        cudaEventDestroy(nccl->slots[i].ready);
        cudaEventDestroy(nccl->slots[i].started);
        cudaEventDestroy(nccl->slots[i].done);
    }
    for (int i = 0; i < WAITS; i++) {
        cudaEventDestroy(nccl->waits[i].from);
        cudaEventDestroy(nccl->waits[i].to);
    }
}

static void nccl_close(World *world) {
    Nccl *nccl = world->state;
    if (!nccl->failed) cuda_check(cudaStreamSynchronize(nccl->stream));
    for (Comm *comm = world->groups; comm; comm = comm->next) end_group(nccl, comm);
    end_group(nccl, world->comm);
    destroy_events(nccl);
    cudaFreeHost(nccl->host);
    cudaFree(nccl->device);
    cudaStreamDestroy(nccl->stream);
    pthread_mutex_destroy(&nccl->lock);
    free(nccl);
}

static const Transport transport = {
    .name = "NCCL",
    .split = nccl_split,
    .begin = nccl_begin,
    .wait = nccl_wait,
    .finish = nccl_finish,
    .run_host = nccl_run_host,
    .status = nccl_status,
    .check = nccl_check_world,
    .times = nccl_times,
    .close = nccl_close,
};

static void create_events(Nccl *nccl) {
    for (int i = 0; i < SLOTS; i++) {
        cuda_check(cudaEventCreateWithFlags(&nccl->slots[i].ready, cudaEventDisableTiming));
        cuda_check(cudaEventCreate(&nccl->slots[i].started));
        cuda_check(cudaEventCreate(&nccl->slots[i].done));
    }
    for (int i = 0; i < WAITS; i++) {
        cuda_check(cudaEventCreate(&nccl->waits[i].from));
        cuda_check(cudaEventCreate(&nccl->waits[i].to));
    }
}

static int join_all(World *world, const unsigned char *id, Error *err) {
    ncclUniqueId unique;
    memcpy(&unique, id, sizeof unique);
    ncclComm_t all;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 1;
    ncclResult_t result = ncclCommInitRankConfig(&all, world->start.size, unique, world->start.rank, &config);
    if (result != ncclSuccess) {
        fail_fault(err, "rank %d: NCCL did not start: %s: %s", world->start.rank, ncclGetErrorString(result),
                   ncclGetLastError(NULL));
        nccl_leave_to_others(result);
        return ERROR_FAULT;
    }
    world->comm->group = all;
    world->comm->rank = world->start.rank;
    world->comm->size = world->start.size;
    return 0;
}

int nccl_open(World *world, const unsigned char *id, Error *err) {
    Nccl *nccl = calloc(1, sizeof *nccl);
    world->comm = calloc(1, sizeof *world->comm);
    if (!nccl || !world->comm) return free(nccl), fail_fault(err, "no memory for the exchange between ranks");
    world->comm->world = world;
    world->transport = &transport;
    world->state = nccl;
    nccl_rank_for_messages(world->start.rank);
    pthread_mutex_init(&nccl->lock, NULL);
    int low, high; // the lower the number, the higher the priority
    cuda_check(cudaDeviceGetStreamPriorityRange(&low, &high));
    cuda_check(cudaStreamCreateWithPriority(&nccl->stream, cudaStreamNonBlocking, high));
    create_events(nccl);
    int code = join_all(world, id, err);
    nccl->failed = code != 0;
    return code;
}

int nccl_new_id(unsigned char *id, Error *err) {
    ncclUniqueId unique;
    ncclResult_t result = ncclGetUniqueId(&unique);
    if (result != ncclSuccess)
        return fail_fault(err, "NCCL did not start: %s: %s", ncclGetErrorString(result), ncclGetLastError(NULL));
    memcpy(id, &unique, sizeof unique);
    return 0;
}

void nccl_name_device(char *name, size_t bytes, int device) {
    char host[64] = "", bus[16] = "";
    gethostname(host, sizeof host - 1);
    cuda_check(cudaDeviceGetPCIBusId(bus, sizeof bus, device));
    snprintf(name, bytes, "%.48s %s", host, bus);
}
