// NCCL picks the order of additions by the number of ranks, the count and how the GPUs are linked: the same ranks on the
// same machines give the same bits. Sums whose terms travel as bf16 are made here and not by NCCL, which would round every
// partial sum: it moves the terms (all-to-all), and each rank adds up its part in the order of the ranks.
#include "comm/nccl_collectives.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "device/device.h"
#include "kernels/bf16_rows.h"

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

// ---- sums whose terms travel as bf16

enum { UNIT = 8 }; // elements of which pieces are multiples: 16 bytes of bf16

// receive [size, n]: row r is what rank r has in this rank's row of its send [size, n].
static void exchange(cudaStream_t stream, const Collective *c, size_t n) {
    nccl_check(ncclGroupStart());
    for (int r = 0; r < c->comm->size; r++) {
        const size_t row = (size_t)r * n;
        nccl_check(ncclSend(c->wire->send + row, n, ncclBfloat16, r, nccl_group(c->comm), stream));
        nccl_check(ncclRecv(c->wire->receive + row, n, ncclBfloat16, r, nccl_group(c->comm), stream));
    }
    nccl_check(ncclGroupEnd());
}

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

static void reduce_scatter_in_bf16(cudaStream_t stream, const Collective *c) {
    const int size = c->comm->size;
    const size_t piece = c->wire->capacity / (size_t)size / UNIT * UNIT;
    for (size_t at = 0; at < c->count; at += piece) {
        const size_t n = least(piece, c->count - at);
        bf16_round_rows(c->wire->send, (const float *)c->in + at, size, n, c->count, stream);
        exchange(stream, c, n);
        bf16_sum_rows((float *)c->out + at, c->wire->receive, size, n, stream);
    }
}

static void all_reduce_in_bf16(cudaStream_t stream, const Collective *c) {
    const size_t unit = (size_t)c->comm->size * UNIT, piece = c->wire->capacity / unit * unit;
    uint16_t *all = c->wire->send;
    for (size_t at = 0; at < c->count; at += piece) {
        const size_t total = least(piece, c->count - at), n = (total + unit - 1) / unit * UNIT;
        float *data = (float *)c->out + at;
        uint16_t *own = all + (size_t)c->comm->rank * n;
        bf16_round_rows(all, data, 1, total, total, stream); // behind it come sums that nobody reads
        exchange(stream, c, n);
        bf16_sum_rows_rounded(own, c->wire->receive, c->comm->size, n, stream);
        nccl_check(ncclAllGather(own, all, n, ncclBfloat16, nccl_group(c->comm), stream));
        bf16_sum_rows(data, all, 1, total, stream);
    }
}

void nccl_collective(cudaStream_t stream, char *host, char *device, const Collective *c) {
    const ncclComm_t group = nccl_group(c->comm);
    floatX *halves = c->out;
    switch (c->kind) {
    case DEVICE_REDUCE_SCATTER:
        if (c->wire)
            reduce_scatter_in_bf16(stream, c);
        else
            nccl_check(ncclReduceScatter(c->in, c->out, c->count, ncclFloat32, ncclSum, group, stream));
        break;
    case DEVICE_ALL_REDUCE:
        if (c->wire)
            all_reduce_in_bf16(stream, c);
        else
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
