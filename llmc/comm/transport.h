// What implements comm.h. A transport carries collectives: in the order of the calls, each after the work that the
// caller's stream held, beside all that comes later. It numbers them from 1; a number stands for one collective below.
#ifndef LLMC_COMM_TRANSPORT_H
#define LLMC_COMM_TRANSPORT_H

#include "comm/comm.h"
#include "comm/start.h"

typedef enum {
    DEVICE_REDUCE_SCATTER,
    DEVICE_ALL_REDUCE,
    DEVICE_ALL_GATHER,
    DEVICE_BROADCAST,
    HOST_SUM,
    HOST_GATHER,
    HOST_BROADCAST,
    HOST_BARRIER
} CollectiveKind;

typedef struct {
    CollectiveKind kind;
    Comm *comm;
    const void *in; // NULL: `out` holds what is given
    void *out;
    size_t count; // as in comm.h: float, floatX, int64_t, or bytes
    int root;
    const Bf16Wire *wire; // of sums of more than one rank; NULL: in fp32
} Collective;

typedef struct {
    const char *name;                               // what world_transport says
    int (*split)(Comm *out, int color, Error *err); // sets rank, size and group; the world's close frees the group
    uint64_t (*begin)(World *world, const Collective *collective, const char *label, cudaStream_t after);
    void (*wait)(World *world, uint64_t number, cudaStream_t stream); // later work of the stream waits
    void (*finish)(World *world, uint64_t number);                    // the calling thread waits
    void (*run_host)(World *world, const Collective *collective, const char *label);
    void (*status)(World *world, CommStatus *status);
    int (*check)(World *world, Error *err);
    void (*times)(World *world, double *busy, double *exposed);
    void (*close)(World *world);
} Transport;

struct Comm {
    World *world;
    int rank, size;
    void *group; // the transport's
    Comm *next;  // of the world's groups
};

struct World {
    Start start;
    int device;
    const Transport *transport; // NULL: a world of one
    void *state;                // the transport's
    Comm *comm;                 // all ranks
    _Atomic(Comm *) groups;     // made by world_split, while other threads ask of errors
    World *meeting;             // the MPI through which the ranks met, where another transport carries collectives
};

// Starts MPI and sets start's rank, local_rank and local_size, and world's transport, state and comm. Errors: 1, 2 (MPI
// finds another number of ranks than were started).
#ifdef LLMC_WITH_MPI
enum { WITH_MPI = 1 };
int mpi_open(World *world, Error *err);
#else
enum { WITH_MPI = 0 };
static inline int mpi_open(World *world, Error *err) {
    (void)world;
    return fail_input(err, "this program was built without MPI");
}
#endif

// NCCL on world->device: sets world's transport, state and comm. id is what nccl_new_id gave on rank 0. Collective.
// Errors: 1. nccl_name_device writes a name that no other GPU has.
enum { NCCL_ID_BYTES = 128 };
#ifdef LLMC_WITH_NCCL
enum { WITH_NCCL = 1 };
int nccl_new_id(unsigned char *id, Error *err);
void nccl_name_device(char *name, size_t bytes, int device);
int nccl_open(World *world, const unsigned char *id, Error *err);
#else
enum { WITH_NCCL = 0 };
static inline int nccl_new_id(unsigned char *id, Error *err) {
    (void)id;
    return fail_input(err, "this program was built without NCCL");
}
static inline void nccl_name_device(char *name, size_t bytes, int device) { (void)name, (void)bytes, (void)device; }
static inline int nccl_open(World *world, const unsigned char *id, Error *err) {
    (void)world, (void)id;
    return fail_input(err, "this program was built without NCCL");
}
#endif

#endif
