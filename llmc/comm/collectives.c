#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "comm/transport.h"
#include "device/device.h"

struct CommOp {
    char label[sizeof((CommStatus *)NULL)->label];
    World *world;
    uint64_t number; // of its last collective; 0: nothing to wait for
};

// ---- ranks

int world_rank(const World *world) { return world->start.rank; }
int world_size(const World *world) { return world->start.size; }
int world_local_rank(const World *world) { return world->start.local_rank; }
int world_local_size(const World *world) { return world->start.local_size; }
const char *world_transport(const World *world) { return world->transport ? world->transport->name : "none"; }
Comm *world_comm(World *world) { return world->comm; }

int comm_rank(const Comm *comm) { return comm ? comm->rank : 0; }
int comm_size(const Comm *comm) { return comm ? comm->size : 1; }

int world_split(Comm **out, World *world, int color, Error *err) {
    *out = NULL;
    if (!world->comm) return 0;
    Comm *comm = calloc(1, sizeof *comm);
    if (!comm) return fail_fault(err, "no memory for a group of ranks");
    comm->world = world;
    int code = world->transport->split(comm, color, err);
    if (code) {
        free(comm);
        return code;
    }
    comm->next = world->groups;
    world->groups = comm;
    if (comm->size > 1 || world->start.size == 1) *out = comm;
    return 0;
}

void world_close(World *world) {
    if (!world) return;
    if (world->transport) world->transport->close(world);
    world_close(world->meeting);
    for (Comm *comm = world->groups, *next; comm; comm = next) {
        next = comm->next;
        free(comm);
    }
    free(world->comm);
    free(world);
}

// ---- collectives on device memory

CommOp *comm_op_create(const char *label) {
    CommOp *op = calloc(1, sizeof *op);
    if (op) strncpy(op->label, label, sizeof op->label - 1);
    return op;
}

void comm_op_destroy(CommOp *op) {
    if (op && op->number) op->world->transport->finish(op->world, op->number);
    free(op);
}

void comm_op_wait(CommOp *op, cudaStream_t stream) {
    if (!op || !op->number) return;
    op->world->transport->wait(op->world, op->number, stream);
    op->number = 0;
}

static void begin(CommOp *op, const Collective *collective, cudaStream_t after) {
    op->world = collective->comm->world;
    op->number = op->world->transport->begin(op->world, collective, op->label, after);
}

static const Bf16Wire *wire_of(const Comm *comm, const Bf16Wire *wire) { return comm->size > 1 ? wire : NULL; }

void comm_reduce_scatter(Comm *comm, float *out, const float *in, size_t count, const Bf16Wire *wire, CommOp *op,
                         cudaStream_t after) {
    if (comm)
        begin(op, &(Collective){DEVICE_REDUCE_SCATTER, comm, in, out, count, 0, wire_of(comm, wire)}, after);
    else if (out != in)
        cuda_check(cudaMemcpyAsync(out, in, count * sizeof *out, cudaMemcpyDeviceToDevice, after));
}

void comm_all_reduce(Comm *comm, float *data, size_t count, const Bf16Wire *wire, CommOp *op, cudaStream_t after) {
    if (comm) begin(op, &(Collective){DEVICE_ALL_REDUCE, comm, NULL, data, count, 0, wire_of(comm, wire)}, after);
}

void comm_all_gather(Comm *comm, floatX *data, size_t count, CommOp *op, cudaStream_t after) {
    if (comm) begin(op, &(Collective){DEVICE_ALL_GATHER, comm, NULL, data, count, 0, NULL}, after);
}

void comm_broadcast(Comm *comm, floatX *data, size_t count, int root, CommOp *op, cudaStream_t after) {
    if (comm) begin(op, &(Collective){DEVICE_BROADCAST, comm, NULL, data, count, root, NULL}, after);
}

// ---- small values in host memory

static void run(Comm *comm, CollectiveKind kind, const void *in, void *out, size_t count, int root, const char *label) {
    const Collective collective = {kind, comm, in, out, count, root, NULL};
    comm->world->transport->run_host(comm->world, &collective, label);
}

void comm_host_sum(Comm *comm, int64_t *values, int count) {
    if (comm) run(comm, HOST_SUM, NULL, values, (size_t)count, 0, "sum of counts");
}

void comm_host_gather(Comm *comm, void *all, const void *mine, size_t bytes) {
    if (comm)
        run(comm, HOST_GATHER, mine, all, bytes, 0, "gathering values");
    else
        memcpy(all, mine, bytes);
}

void comm_host_broadcast(Comm *comm, void *data, size_t bytes, int root) {
    if (comm) run(comm, HOST_BROADCAST, NULL, data, bytes, root, "passing values on");
}

void comm_barrier(Comm *comm) {
    if (comm) run(comm, HOST_BARRIER, NULL, NULL, 0, 0, "barrier");
}

// ---- what is going on

void world_status(const World *world, CommStatus *status) {
    *status = (CommStatus){0};
    if (world->transport) world->transport->status((World *)world, status);
}

int world_check(World *world, Error *err) { return world->transport ? world->transport->check(world, err) : 0; }

void world_times(World *world, double *busy, double *exposed) {
    *busy = *exposed = 0;
    if (world->transport) world->transport->times(world, busy, exposed);
}
