// NCCL picks the order of additions by the number of ranks, the count and how the GPUs are linked: the same ranks on the
// same machines give the same bits.
#include "comm/nccl_collectives.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "device/device.h"

enum { OTHERS_SECONDS = 5 };

// ---- errors

static int own_rank; // for messages

void nccl_rank_for_messages(int rank) { own_rank = rank; }

void nccl_leave_to_others(ncclResult_t result) {
    if (result == ncclRemoteError || own_rank > 0) sleep(OTHERS_SECONDS);
}

void nccl_check_at(ncclResult_t result, const char *call, const char *file, int line) {
    if (result == ncclSuccess) return;
    const char *reason = ncclGetLastError(NULL);
    nccl_leave_to_others(result);
    fprintf(stderr, "llmc: rank %d: %s:%d: %s: %s: %s\n", own_rank, file, line, call, ncclGetErrorString(result),
            reason);
    quick_exit(1); // handlers of exit() would wait for a device that waits for other ranks
}

// ---- collectives

static ncclDataType_t floatX_type(void) { return sizeof(floatX) == sizeof(float) ? ncclFloat32 : ncclBfloat16; }

static void copy(cudaStream_t stream, char *to, const char *from, size_t bytes) {
    cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream));
}

static void call_on_host_values(cudaStream_t stream, char *host, char *device, const Collective *c) {
    const ncclComm_t group = nccl_group(c->comm);
    const size_t bytes = c->kind == HOST_SUM ? c->count * sizeof(int64_t) : c->count, rank = (size_t)c->comm->rank;
    const size_t own = c->kind == HOST_GATHER ? rank * bytes : 0;
    const size_t all = c->kind == HOST_GATHER ? (size_t)c->comm->size * bytes : bytes;
    copy(stream, device + own, host + own, bytes);
    if (c->kind == HOST_SUM)
        nccl_check(ncclAllReduce(device, device, c->count, ncclInt64, ncclSum, group, stream));
    else if (c->kind == HOST_GATHER)
        nccl_check(ncclAllGather(device + own, device, bytes, ncclUint8, group, stream));
    else
        nccl_check(ncclBroadcast(device, device, bytes, ncclUint8, c->root, group, stream));
    copy(stream, host, device, all);
}

void nccl_collective(cudaStream_t stream, char *host, char *device, const Collective *c) {
    const ncclComm_t group = nccl_group(c->comm);
    floatX *halves = c->out;
    switch (c->kind) {
    case DEVICE_REDUCE_SCATTER:
        nccl_check(ncclReduceScatter(c->in, c->out, c->count, ncclFloat32, ncclSum, group, stream));
        break;
    case DEVICE_ALL_REDUCE:
        nccl_check(ncclAllReduce(c->out, c->out, c->count, ncclFloat32, ncclSum, group, stream));
        break;
    case DEVICE_ALL_GATHER: // in place: a rank's part is given where it belongs
        nccl_check(
            ncclAllGather(halves + (size_t)c->comm->rank * c->count, halves, c->count, floatX_type(), group, stream));
        break;
    case DEVICE_BROADCAST:
        nccl_check(ncclBroadcast(c->out, c->out, c->count, floatX_type(), c->root, group, stream));
        break;
    default:
        call_on_host_values(stream, host, device, c);
        break;
    }
}
