// Collectives by MPI, beside compute: one thread makes all calls of MPI, in the order in which they were queued. Device
// memory is used as it is where it is host memory, and copied through host buffers where it is not, so that several
// ranks can share one GPU.
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "comm/mpi_collectives.h"
#include "device/device.h"
#include "device/trace.h"

enum { SLOTS = 256 }; // collectives that can be queued; the caller of one more waits

typedef struct {
    Collective collective;
    Comm *split; // not NULL: instead of a collective, make this group of the ranks that give the same color
    int color;
    char label[sizeof((CommStatus *)NULL)->label];
    cudaEvent_t ready; // what the caller's stream held is done
} Slot;

typedef struct {
    World *world;
    pthread_t thread;
    pthread_mutex_t lock;    // guards what follows, up to `error`
    pthread_cond_t to_do;    // the thread waits for it
    pthread_cond_t progress; // callers wait for it
    Slot slots[SLOTS];       // number i is in slots[i % SLOTS]; the thread reads the one it begun without the lock
    uint64_t queued, begun, ended;
    bool opened, closing;
    char label[sizeof((CommStatus *)NULL)->label];
    double busy, exposed;
    Error error;        // of opening
    MpiScratch scratch; // the thread's
} Mpi;

// ---- the thread

_Static_assert(sizeof(MPI_Comm) <= sizeof((Comm *)NULL)->group, "a group's handle is kept in the place of a pointer");

static MPI_Comm group_of(const Comm *comm) {
    MPI_Comm group;
    memcpy(&group, &comm->group, sizeof group);
    return group;
}

static void set_group(Comm *comm, MPI_Comm group) {
    memcpy(&comm->group, &group, sizeof group);
    mpi_check(MPI_Comm_set_errhandler(group, MPI_ERRORS_RETURN));
    mpi_check(MPI_Comm_rank(group, &comm->rank));
    mpi_check(MPI_Comm_size(group, &comm->size));
}

static void free_group(const Comm *comm) {
    MPI_Comm group = group_of(comm);
    mpi_check(MPI_Comm_free(&group));
}

static void split(const World *world, Comm *out, int color) {
    MPI_Comm group;
    mpi_check(MPI_Comm_split(group_of(world->comm), color, world->start.rank, &group));
    set_group(out, group);
}

// OpenMPI's plugins look for its symbols among the program's, where they are not if the library that uses them was
// itself loaded by a running program (Python's ctypes).
static void make_symbols_global(void) {
    Dl_info info;
    void *address;
    int (*function)(int *, char ***) = MPI_Init;
    memcpy(&address, &function, sizeof address);
    if (dladdr(address, &info)) dlopen(info.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD);
}

static int meet_others(World *world, Error *err) {
    make_symbols_global();
    setenv("OMPI_MCA_mpi_yield_when_idle", "1",
           0); // a rank that waits for another gives its core to the threads that compute
    int level;
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level) != MPI_SUCCESS || level < MPI_THREAD_FUNNELED)
        return fail_fault(err, "MPI did not start for a program with several threads");
    MPI_Comm all, here;
    mpi_check(MPI_Comm_dup(MPI_COMM_WORLD, &all));
    set_group(world->comm, all);
    Start *start = &world->start;
    start->rank = world->comm->rank;
    mpi_check(MPI_Comm_split_type(all, MPI_COMM_TYPE_SHARED, start->rank, MPI_INFO_NULL, &here));
    mpi_check(MPI_Comm_rank(here, &start->local_rank));
    mpi_check(MPI_Comm_size(here, &start->local_size));
    mpi_check(MPI_Comm_free(&here));
    if (world->comm->size == start->size) return 0;
    return fail_input(err,
                      "%d ranks were started, but MPI finds %d; with Slurm, srun --mpi=pmix lets them find each other "
                      "(srun --mpi=list tells whether it can)",
                      start->size, world->comm->size);
}

static bool is_on_device(CollectiveKind kind) { return kind <= DEVICE_BROADCAST; }

static void prepare_scratch(Mpi *mpi) {
    if (mpi->scratch.send) return;
    cuda_check(cudaSetDevice(mpi->world->device));
    mpi_scratch_create(&mpi->scratch, !device_memory_is_host());
}

static double carry(Mpi *mpi, Slot *slot) {
    if (slot->split) {
        split(mpi->world, slot->split, slot->color);
        return 0;
    }
    const Collective *collective = &slot->collective;
    const bool on_device = is_on_device(collective->kind);
    if (on_device) {
        prepare_scratch(mpi);
        cuda_check(cudaEventSynchronize(slot->ready));
    }
    const double began = clock_seconds();
    if (on_device) trace_begin(LANE_COMMUNICATION, slot->label, -1, mpi->scratch.stream);
    mpi_collective(&mpi->scratch, group_of(collective->comm), collective);
    if (on_device) trace_end(LANE_COMMUNICATION, mpi->scratch.stream);
    return on_device ? clock_seconds() - began : 0;
}

// The next that was queued, or NULL at the end.
static Slot *next_slot(Mpi *mpi) {
    Slot *slot = NULL;
    pthread_mutex_lock(&mpi->lock);
    while (mpi->queued == mpi->ended && !mpi->closing) pthread_cond_wait(&mpi->to_do, &mpi->lock);
    if (mpi->queued > mpi->ended) {
        slot = &mpi->slots[++mpi->begun % SLOTS];
        memcpy(mpi->label, slot->label, sizeof mpi->label);
    }
    pthread_mutex_unlock(&mpi->lock);
    return slot;
}

static void ended(Mpi *mpi, double seconds) {
    pthread_mutex_lock(&mpi->lock);
    mpi->ended++;
    mpi->busy += seconds;
    pthread_cond_broadcast(&mpi->progress);
    pthread_mutex_unlock(&mpi->lock);
}

static void *run(void *argument) {
    Mpi *mpi = argument;
    World *world = mpi->world;
    Error error = {0};
    meet_others(world, &error);
    pthread_mutex_lock(&mpi->lock);
    mpi->error = error;
    mpi->opened = true;
    pthread_cond_broadcast(&mpi->progress);
    pthread_mutex_unlock(&mpi->lock);
    for (Slot *slot; (slot = next_slot(mpi));) ended(mpi, carry(mpi, slot));
    for (Comm *group = world->groups; group; group = group->next)
        if (group->group) free_group(group);
    mpi_scratch_destroy(&mpi->scratch);
    int started = 0;
    MPI_Initialized(&started);
    if (world->comm->group) free_group(world->comm);
    if (started) MPI_Finalize(); // waits for all ranks
    return NULL;
}

// ---- the callers' side

// The slot for one more, with the lock held until push.
static Slot *free_slot(Mpi *mpi) {
    pthread_mutex_lock(&mpi->lock);
    while (mpi->queued - mpi->ended == SLOTS) pthread_cond_wait(&mpi->progress, &mpi->lock);
    return &mpi->slots[(mpi->queued + 1) % SLOTS];
}

static uint64_t push(Mpi *mpi) {
    const uint64_t number = ++mpi->queued;
    pthread_cond_signal(&mpi->to_do);
    pthread_mutex_unlock(&mpi->lock);
    return number;
}

static uint64_t mpi_begin(World *world, const Collective *collective, const char *label, cudaStream_t after) {
    Mpi *mpi = world->state;
    Slot *slot = free_slot(mpi);
    slot->collective = *collective;
    slot->split = NULL;
    strncpy(slot->label, label, sizeof slot->label - 1);
    if (is_on_device(collective->kind)) {
        if (!slot->ready) cuda_check(cudaEventCreateWithFlags(&slot->ready, cudaEventDisableTiming));
        cuda_check(cudaEventRecord(slot->ready, after));
    }
    return push(mpi);
}

static void mpi_finish(World *world, uint64_t number) {
    Mpi *mpi = world->state;
    pthread_mutex_lock(&mpi->lock);
    while (mpi->ended < number) pthread_cond_wait(&mpi->progress, &mpi->lock);
    pthread_mutex_unlock(&mpi->lock);
}

// The caller waits, and so does all that it has not queued yet.
static void mpi_wait(World *world, uint64_t number, cudaStream_t stream) {
    (void)stream;
    Mpi *mpi = world->state;
    const double began = clock_seconds();
    mpi_finish(world, number);
    pthread_mutex_lock(&mpi->lock);
    mpi->exposed += clock_seconds() - began;
    pthread_mutex_unlock(&mpi->lock);
}

static void mpi_run_host(World *world, const Collective *collective, const char *label) {
    mpi_finish(world, mpi_begin(world, collective, label, NULL));
}

static int mpi_split(Comm *out, int color, Error *err) {
    (void)err; // a fault of MPI's ends the program
    Mpi *mpi = out->world->state;
    Slot *slot = free_slot(mpi);
    slot->split = out;
    slot->color = color;
    strncpy(slot->label, "making a group", sizeof slot->label - 1);
    mpi_finish(out->world, push(mpi));
    return 0;
}

static void mpi_status(World *world, CommStatus *status) {
    Mpi *mpi = world->state;
    pthread_mutex_lock(&mpi->lock);
    status->begun = mpi->begun;
    status->ended = mpi->ended;
    memcpy(status->label, mpi->label, sizeof status->label);
    pthread_mutex_unlock(&mpi->lock);
}

static int mpi_check_world(World *world, Error *err) {
    (void)world; // faults end the program where they are found
    (void)err;
    return 0;
}

static void mpi_times(World *world, double *busy, double *exposed) {
    Mpi *mpi = world->state;
    pthread_mutex_lock(&mpi->lock);
    *busy = mpi->busy;
    *exposed = mpi->exposed;
    mpi->busy = mpi->exposed = 0;
    pthread_mutex_unlock(&mpi->lock);
}

static void mpi_close(World *world) {
    Mpi *mpi = world->state;
    pthread_mutex_lock(&mpi->lock);
    mpi->closing = true;
    pthread_cond_signal(&mpi->to_do);
    pthread_mutex_unlock(&mpi->lock);
    pthread_join(mpi->thread, NULL);
    for (int i = 0; i < SLOTS; i++)
        if (mpi->slots[i].ready) cuda_check(cudaEventDestroy(mpi->slots[i].ready));
    pthread_mutex_destroy(&mpi->lock);
    pthread_cond_destroy(&mpi->to_do);
    pthread_cond_destroy(&mpi->progress);
    free(mpi);
}

static Transport transport = {
    .name = "MPI",
    .split = mpi_split,
    .begin = mpi_begin,
    .wait = mpi_wait,
    .finish = mpi_finish,
    .run_host = mpi_run_host,
    .status = mpi_status,
    .check = mpi_check_world,
    .times = mpi_times,
    .close = mpi_close,
};

// Signals are for the program's own threads, not for this one nor for those that MPI makes.
static int start_thread(Mpi *mpi) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&mpi->thread, NULL, run, mpi);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

int mpi_open(World *world, Error *err) {
    Mpi *mpi = calloc(1, sizeof *mpi);
    world->comm = calloc(1, sizeof *world->comm);
    if (!mpi || !world->comm) return free(mpi), fail_fault(err, "no memory for the exchange between ranks");
    mpi->world = world->comm->world = world;
    pthread_mutex_init(&mpi->lock, NULL);
    pthread_cond_init(&mpi->to_do, NULL);
    pthread_cond_init(&mpi->progress, NULL);
    int error = start_thread(mpi);
    if (error) return free(mpi), fail_fault(err, "no thread for the exchange between ranks: %s", strerror(error));
    if (!device_memory_is_host()) transport.name = "MPI through host memory";
    world->transport = &transport;
    world->state = mpi;
    pthread_mutex_lock(&mpi->lock);
    while (!mpi->opened) pthread_cond_wait(&mpi->progress, &mpi->lock);
    if (mpi->error.code && err) *err = mpi->error;
    pthread_mutex_unlock(&mpi->lock);
    return mpi->error.code;
}
