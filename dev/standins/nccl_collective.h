// Collectives of the stand-in for NCCL, as work of a stream.
#ifndef LLMC_STANDINS_NCCL_COLLECTIVE_H
#define LLMC_STANDINS_NCCL_COLLECTIVE_H

#include <memory>

#include "nccl_meeting.h"

enum Kind { ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER, BROADCAST, ALL_TO_ALL, KINDS };
extern const char *const KIND_NAMES[KINDS];
extern const size_t WIDTHS[ncclNumTypes]; // bytes of a number of each type

struct ncclComm {
    Meeting meeting;
    char device[32];                // bus id
    uint64_t called;                // collectives
    std::atomic<uint64_t> finished; // of them
    std::atomic<bool> lost;         // a rank; an asynchronous error stays
    cudaStream_t stream;            // of the last collective
    bool finalized;
    ~ncclComm();
};

struct Arguments {
    Kind kind;
    const void *send;
    void *receive;
    size_t count; // as NCCL's functions have it; of an all-to-all: from one rank to another
    ncclDataType_t type;
    ncclRedOp_t op;
    int root;
};

// Checks what NCCL checks, and what its documentation asks for: ranges, device memory, in place or no overlap. Result in
// nccl_fail.
ncclResult_t collective_check(const ncclComm *comm, const Arguments *a);

// Queues it. Until all ranks have come the result's memory is NaN, and the rank that has not come holds up the stream.
// Calls that differ between ranks, and memory that is written meanwhile, end the program with a line on stderr.
void collective_queue(const std::shared_ptr<ncclComm> &comm, const Arguments *a, cudaStream_t stream);

#endif
