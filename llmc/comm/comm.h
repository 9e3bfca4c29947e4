// What ranks exchange. A World is this process among all that train together; a Comm is a group of them.
//
// Collectives on device memory are asynchronous: they are queued after what `after` holds at the call and run beside
// what is queued later, on a stream (NCCL) or by a thread (MPI) of their own, in the order of the calls. All ranks of a
// group make the same calls in the same order, also across groups. comm_op_wait makes later work wait for one.
//
// A NULL Comm is a group of one. The same ranks (over NCCL: on the same machines) give the same bits; over MPI sums are
// made in the order of the ranks, whatever the collective and the count.
#ifndef LLMC_COMM_COMM_H
#define LLMC_COMM_COMM_H

#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "device/types.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct World World;
typedef struct Comm Comm;
typedef struct CommOp CommOp;

typedef enum { TRANSPORT_AUTO, TRANSPORT_NCCL, TRANSPORT_MPI } TransportChoice;

// ---- ranks

// Finds out how the program was started (mpirun or srun with MPI; else RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
// MASTER_PORT, or Slurm's variables), meets the other ranks and takes the rank's GPU. A program started alone is a
// world of one and needs none of it; TRANSPORT_NCCL there gives groups of one that go through NCCL. Collective. Errors: 2
// (a variable missing or malformed, more ranks than GPUs, a transport that this build lacks), 1 (the others were not met).
// One rank reports them: err->message is empty on those that must not print. After error 2, which all ranks have,
// *out is to be closed once it was printed: launchers end all ranks when the first one exits, and where MPI has begun,
// world_close waits for the others.
int world_open(World **out, TransportChoice choice, Error *err);

// Orderly end, once no collective is under way; collective. NULL is allowed.
void world_close(World *world);

int world_rank(const World *world);
int world_size(const World *world);
int world_local_rank(const World *world); // among the ranks of this machine
int world_local_size(const World *world);
const char *world_transport(const World *world); // for people: "MPI", "NCCL", "MPI through host memory", "none"
Comm *world_comm(World *world);                  // all ranks; NULL for a world of one without transport

// *out = the group of those ranks that give the same color, ordered by rank; NULL where it has one member. Collective
// over the world. Errors: 1. The world frees it.
int world_split(Comm **out, World *world, int color, Error *err);

int comm_rank(const Comm *comm); // NULL: 0
int comm_size(const Comm *comm); // NULL: 1

// ---- collectives on device memory

// One collective's place: made once, used for one call after another. label is copied, and shown by watchdog and trace
// ("layer 3 gradients").
CommOp *comm_op_create(const char *label);
void comm_op_destroy(CommOp *op); // waits; before world_close; NULL is allowed

// Work queued on `stream` from here on waits for the op's last collective (on the cpu target: the caller waits). Nothing
// if none was begun since the last wait.
void comm_op_wait(CommOp *op, cudaStream_t stream);

// How the terms of a sum travel: as bf16, half the bytes (where it is NULL, as fp32). Each rank's term, its own too, is
// rounded once, to nearest even; the sum is made in fp32, in the order of the ranks over either transport, so that its
// bits do not depend on who makes it. Its error is at most 2^-8 of the sum of the terms' magnitudes, beside that of fp32
// additions; an all-reduce rounds the sum too, by at most 2^-8 of it (and each by 2^-134, where numbers are subnormal).
// Counts are multiples of 8, pointers 16-byte aligned. A group of one rounds nothing.
typedef struct {
    uint16_t *send, *receive; // device memory, [capacity] each, for one collective after the other. MPI has its own
    size_t capacity;          // at least 8 for each rank of a group; more is sent in so large pieces
} Bf16Wire;

// out[count] on rank r = sum over ranks of in[r*count + i]. out is in + r*count (in place), or does not overlap `in`.
void comm_reduce_scatter(Comm *comm, float *out, const float *in, size_t count, const Bf16Wire *wire, CommOp *op,
                         cudaStream_t after);

// data[count] = sum over ranks; the same bits on all.
void comm_all_reduce(Comm *comm, float *data, size_t count, const Bf16Wire *wire, CommOp *op, cudaStream_t after);

// data[size*count]: rank r's part, data[r*count ...], is given to all.
void comm_all_gather(Comm *comm, floatX *data, size_t count, CommOp *op, cudaStream_t after);

void comm_broadcast(Comm *comm, floatX *data, size_t count, int root, CommOp *op, cudaStream_t after);

// ---- small values in host memory; these wait

void comm_host_sum(Comm *comm, int64_t *values, int count);
void comm_host_gather(Comm *comm, void *all, const void *mine, size_t bytes); // all[size*bytes] on every rank
void comm_host_broadcast(Comm *comm, void *data, size_t bytes, int root);
void comm_barrier(Comm *comm);

// ---- what is going on, readable from any thread

typedef struct {
    uint64_t begun, ended; // collectives of this rank, in their order; begun > ended: it is in one
    char label[64];        // of the last one that was begun
} CommStatus;
void world_status(const World *world, CommStatus *status);

// An error that the transport has noticed by itself (NCCL's asynchronous errors), as text in err; 0: none.
int world_check(World *world, Error *err);

// Seconds since the last call in collectives on device memory, of what has ended by now: they ran, or waited for other
// ranks (busy), and work waited for them in comm_op_wait (exposed). Does not wait itself: what is still under way runs
// beside the next step, and counts there.
void world_times(World *world, double *busy, double *exposed);

#ifdef __cplusplus
}
#endif
#endif
