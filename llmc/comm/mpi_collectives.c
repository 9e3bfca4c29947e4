// Sums are made here and not by MPI_Reduce_scatter_block or MPI_Allreduce, whose order of additions the library chooses
// by its version, the sizes and where the ranks run. MPI moves what is to be added (all-to-all) and each rank adds up its
// part in the order of the ranks: ((x0 + x1) + x2) + ... for every element, so that the same ranks give the same bits,
// an all-reduce gives those of a reduce-scatter, and a rank receives no more than by any other way.
#include "comm/mpi_collectives.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bf16.h"
#include "device/device.h"

enum {
    PIECE_FLOATS = 1 << 20,  // of all ranks together, in each buffer
    ADD_FLOATS = 4096,       // added up at a time, small enough for the first cache
    LARGEST_BLOCK = 1 << 28, // elements in one call of MPI, whose counts are int
    TURNS_AWAKE = 100,       // looks for the others before the thread sleeps between two
    NAP_NANOSECONDS = 50000
};

void mpi_check_at(int error, const char *call, const char *file, int line) {
    if (error == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    MPI_Error_string(error, text, &length);
    fprintf(stderr, "llmc: %s:%d: %s: %s\n", file, line, call, text);
    quick_exit(1); // other threads are at work: no handlers of exit()
}

void mpi_scratch_create(MpiScratch *scratch, bool staged) {
    *scratch = (MpiScratch){.staged = staged};
    cuda_check(cudaMallocHost((void **)&scratch->send, PIECE_FLOATS * sizeof(float)));
    cuda_check(cudaMallocHost((void **)&scratch->receive, PIECE_FLOATS * sizeof(float)));
    if (staged) cuda_check(cudaStreamCreateWithFlags(&scratch->stream, cudaStreamNonBlocking));
}

void mpi_scratch_destroy(MpiScratch *scratch) {
    if (!scratch->send) return;
    cuda_check(cudaFreeHost(scratch->send));
    cuda_check(cudaFreeHost(scratch->receive));
    if (scratch->staged) cuda_check(cudaStreamDestroy(scratch->stream));
}

// Between device and scratch; on the cpu target that is a copy within host memory.
static void copy(const MpiScratch *scratch, void *to, const void *from, size_t bytes) {
    if (!scratch->staged) {
        memcpy(to, from, bytes);
        return;
    }
    cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, scratch->stream));
    cuda_check(cudaStreamSynchronize(scratch->stream));
}

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

static MPI_Datatype floatX_type(void) { return sizeof(floatX) == sizeof(float) ? MPI_FLOAT : MPI_UINT16_T; }

// Waits until all ranks have come to this collective. The blocking calls of MPI poll without a pause, which would take
// a core from the computing threads for as long as another rank still computes; so the long wait is made here, asleep.
static void meet(MPI_Comm group) {
    MPI_Request request;
    mpi_check(MPI_Ibarrier(group, &request));
    const struct timespec nap = {.tv_nsec = NAP_NANOSECONDS};
    int done = 0;
    for (int turn = 0; !done; turn++) {
        mpi_check(MPI_Test(&request, &done, MPI_STATUS_IGNORE));
        if (done) break;
        if (turn < TURNS_AWAKE)
            sched_yield();
        else
            nanosleep(&nap, NULL);
    }
}

// A type of `count` elements, the next of which begins `stride` elements after its beginning.
static MPI_Datatype block_type(size_t count, size_t stride, MPI_Datatype element) {
    MPI_Datatype block, spaced;
    MPI_Aint low, extent;
    mpi_check(MPI_Type_get_extent(element, &low, &extent));
    mpi_check(MPI_Type_contiguous((int)count, element, &block));
    mpi_check(MPI_Type_create_resized(block, 0, (MPI_Aint)stride * extent, &spaced));
    mpi_check(MPI_Type_commit(&spaced));
    mpi_check(MPI_Type_free(&block));
    return spaced;
}

// receive[r*count ...] = rank r's send[rank*stride ...]
static void exchange(MPI_Comm group, const void *send, size_t stride, void *receive, size_t count, MPI_Datatype type) {
    MPI_Datatype block = block_type(count, stride, type);
    mpi_check(MPI_Alltoall(send, 1, block, receive, (int)count, type, group));
    mpi_check(MPI_Type_free(&block));
}

// out[count] = sum of the rows of in[rows, count], from the first to the last
static void add_rows(float *out, const float *in, size_t count, int rows) {
    for (size_t at = 0; at < count; at += ADD_FLOATS) {
        const size_t n = least(ADD_FLOATS, count - at);
        memcpy(out + at, in + at, n * sizeof *out);
        for (int row = 1; row < rows; row++) {
            const float *more = in + (size_t)row * count + at;
            for (size_t i = 0; i < n; i++) out[at + i] += more[i];
        }
    }
}

static void reduce_scatter(MpiScratch *scratch, MPI_Comm group, const Collective *c) {
    const int size = c->comm->size;
    const size_t piece = PIECE_FLOATS / (size_t)size;
    const float *in = c->in;
    float *out = c->out;
    for (size_t at = 0; at < c->count; at += piece) {
        const size_t n = least(piece, c->count - at);
        for (int r = 0; scratch->staged && r < size; r++)
            copy(scratch, scratch->send + (size_t)r * n, in + (size_t)r * c->count + at, n * sizeof *in);
        if (scratch->staged)
            exchange(group, scratch->send, n, scratch->receive, n, MPI_FLOAT);
        else
            exchange(group, in + at, c->count, scratch->receive, n, MPI_FLOAT);
        // in place, `out` is a part of `in`, of which this piece has been sent
        float *sum = scratch->staged ? scratch->send : out + at;
        add_rows(sum, scratch->receive, n, size);
        if (scratch->staged) copy(scratch, out + at, sum, n * sizeof *out);
    }
}

// data[size*n] = sum over ranks, data in host memory
static void all_reduce_piece(MpiScratch *scratch, MPI_Comm group, float *data, size_t n, int rank, int size) {
    exchange(group, data, n, scratch->receive, n, MPI_FLOAT);
    add_rows(data + (size_t)rank * n, scratch->receive, n, size);
    mpi_check(MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, data, (int)n, MPI_FLOAT, group));
}

static void all_reduce(MpiScratch *scratch, MPI_Comm group, const Collective *c) {
    const size_t size = (size_t)c->comm->size, piece = PIECE_FLOATS / size * size;
    float *data = c->out;
    for (size_t at = 0; at < c->count; at += piece) {
        const size_t total = least(piece, c->count - at), n = (total + size - 1) / size;
        const bool through_scratch = scratch->staged || n * size != total;
        float *whole = through_scratch ? scratch->send : data + at;
        if (through_scratch) {
            copy(scratch, whole, data + at, total * sizeof *data);
            memset(whole + total, 0, (n * size - total) * sizeof *data);
        }
        all_reduce_piece(scratch, group, whole, n, c->comm->rank, (int)size);
        if (through_scratch) copy(scratch, data + at, whole, total * sizeof *data);
    }
}

// ---- sums whose terms travel as bf16, in half of each buffer

static void round_all(uint16_t *to, const float *from, size_t count) {
    for (size_t i = 0; i < count; i++) to[i] = bf16_round(from[i]);
}

// out[n] = sum of columns [at, at + n) of in[rows, count], from the first row to the last
static void add_halves(float *out, const uint16_t *in, size_t at, size_t n, size_t count, int rows) {
    for (size_t i = 0; i < n; i++) out[i] = bf16_widen(in[at + i]);
    for (int row = 1; row < rows; row++) {
        const uint16_t *more = in + (size_t)row * count + at;
        for (size_t i = 0; i < n; i++) out[i] += bf16_widen(more[i]);
    }
}

static void reduce_scatter_in_bf16(MpiScratch *scratch, MPI_Comm group, const Collective *c) {
    const int size = c->comm->size;
    const size_t piece = PIECE_FLOATS / (size_t)size;
    uint16_t *send = (uint16_t *)scratch->send, *receive = (uint16_t *)scratch->receive;
    for (size_t at = 0; at < c->count; at += piece) {
        const size_t n = least(piece, c->count - at);
        for (int r = 0; r < size; r++) {
            const float *from = (const float *)c->in + (size_t)r * c->count + at;
            if (scratch->staged) copy(scratch, scratch->receive, from, n * sizeof *from);
            round_all(send + (size_t)r * n, scratch->staged ? scratch->receive : from, n);
        }
        exchange(group, send, n, receive, n, MPI_UINT16_T);
        float *out = (float *)c->out + at, *sum = scratch->staged ? scratch->send : out;
        for (size_t i = 0; i < n; i += ADD_FLOATS) add_halves(sum + i, receive, i, least(ADD_FLOATS, n - i), n, size);
        if (scratch->staged) copy(scratch, out, sum, n * sizeof *out);
    }
}

// send[size*n], this rank's terms, = sums over ranks, rounded; receive[size*n] is overwritten
static void all_reduce_halves(MPI_Comm group, const Collective *c, uint16_t *send, uint16_t *receive, size_t n) {
    float sum[ADD_FLOATS];
    uint16_t *own = send + (size_t)c->comm->rank * n;
    exchange(group, send, n, receive, n, MPI_UINT16_T);
    for (size_t i = 0; i < n; i += ADD_FLOATS) {
        const size_t count = least(ADD_FLOATS, n - i);
        add_halves(sum, receive, i, count, n, c->comm->size);
        round_all(own + i, sum, count);
    }
    mpi_check(MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, send, (int)n, MPI_UINT16_T, group));
}

static void all_reduce_in_bf16(MpiScratch *scratch, MPI_Comm group, const Collective *c) {
    const size_t size = (size_t)c->comm->size, piece = PIECE_FLOATS / size * size;
    uint16_t *send = (uint16_t *)scratch->send, *receive = (uint16_t *)scratch->receive;
    for (size_t at = 0; at < c->count; at += piece) {
        const size_t total = least(piece, c->count - at), n = (total + size - 1) / size;
        float *data = (float *)c->out + at, *whole = scratch->staged ? scratch->receive : data;
        if (scratch->staged) copy(scratch, whole, data, total * sizeof *data);
        round_all(send, whole, total);
        all_reduce_halves(group, c, send, receive, n);
        add_halves(whole, send, 0, total, total, 1);
        if (scratch->staged) copy(scratch, data, whole, total * sizeof *data);
    }
}

static void all_gather_staged(MpiScratch *scratch, MPI_Comm group, const Collective *c) {
    const size_t size = (size_t)c->comm->size, rank = (size_t)c->comm->rank;
    const size_t piece = PIECE_FLOATS * sizeof(float) / sizeof(floatX) / size;
    floatX *data = c->out, *host = (floatX *)scratch->send;
    for (size_t at = 0; at < c->count; at += piece) {
        const size_t n = least(piece, c->count - at);
        copy(scratch, host + rank * n, data + rank * c->count + at, n * sizeof *data);
        mpi_check(MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, host, (int)n, floatX_type(), group));
        for (size_t r = 0; r < size; r++)
            if (r != rank) copy(scratch, data + r * c->count + at, host + r * n, n * sizeof *data);
    }
}

static void all_gather(MpiScratch *scratch, MPI_Comm group, const Collective *c) {
    if (scratch->staged) {
        all_gather_staged(scratch, group, c);
        return;
    }
    floatX *data = c->out;
    for (size_t at = 0; at < c->count; at += LARGEST_BLOCK) {
        MPI_Datatype block = block_type(least(LARGEST_BLOCK, c->count - at), c->count, floatX_type());
        mpi_check(MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, data + at, 1, block, group));
        mpi_check(MPI_Type_free(&block));
    }
}

static void broadcast(MpiScratch *scratch, MPI_Comm group, const Collective *c) {
    const size_t piece = scratch->staged ? PIECE_FLOATS * sizeof(float) / sizeof(floatX) : LARGEST_BLOCK;
    floatX *data = c->out;
    for (size_t at = 0; at < c->count; at += piece) {
        const size_t n = least(piece, c->count - at);
        floatX *host = scratch->staged ? (floatX *)scratch->send : data + at;
        if (scratch->staged && c->comm->rank == c->root) copy(scratch, host, data + at, n * sizeof *data);
        mpi_check(MPI_Bcast(host, (int)n, floatX_type(), c->root, group));
        if (scratch->staged && c->comm->rank != c->root) copy(scratch, data + at, host, n * sizeof *data);
    }
}

void mpi_collective(MpiScratch *scratch, MPI_Comm group, const Collective *c) {
    meet(group);
    switch (c->kind) {
    case DEVICE_REDUCE_SCATTER:
        (c->wire ? reduce_scatter_in_bf16 : reduce_scatter)(scratch, group, c);
        break;
    case DEVICE_ALL_REDUCE:
        (c->wire ? all_reduce_in_bf16 : all_reduce)(scratch, group, c);
        break;
    case DEVICE_ALL_GATHER:
        all_gather(scratch, group, c);
        break;
    case DEVICE_BROADCAST:
        broadcast(scratch, group, c);
        break;
    case HOST_SUM:
        mpi_check(MPI_Allreduce(MPI_IN_PLACE, c->out, (int)c->count, MPI_INT64_T, MPI_SUM, group));
        break;
    case HOST_GATHER:
        mpi_check(MPI_Allgather(c->in, (int)c->count, MPI_BYTE, c->out, (int)c->count, MPI_BYTE, group));
        break;
    case HOST_BROADCAST:
        mpi_check(MPI_Bcast(c->out, (int)c->count, MPI_BYTE, c->root, group));
        break;
    case HOST_BARRIER: // they have met
        break;
    }
}
