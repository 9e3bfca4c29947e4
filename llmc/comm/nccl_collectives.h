// One collective by NCCL's calls, queued on a stream (nccl_transport.c).
#ifndef LLMC_COMM_NCCL_COLLECTIVES_H
#define LLMC_COMM_NCCL_COLLECTIVES_H

#include <nccl.h>

#include "comm/transport.h"

// A failing call ends the program with code 1 and one line: rank, what failed, where.
#define nccl_check(call) nccl_check_at((call), #call, __FILE__, __LINE__)
void nccl_check_at(ncclResult_t result, const char *call, const char *file, int line);
void nccl_rank_for_messages(int rank);

// One rank is to print what several ranks meet: of a rank that has died the watchdog, which names it; of what may be
// every rank's, rank 0. Watchdog, or mpirun, end this process meanwhile.
void nccl_leave_to_others(ncclResult_t result);

static inline ncclComm_t nccl_group(const Comm *comm) { return comm->group; }

// Host collectives: what is given lies in `host`, page-locked, and so does what they give; `device` has as much room.
void nccl_collective(cudaStream_t stream, char *host, char *device, const Collective *collective);

#endif
