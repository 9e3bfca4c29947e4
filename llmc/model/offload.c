#include "model/offload.h"

#include <stdbool.h>
#include <stdlib.h>

void offload_plan(Offload *o, MemoryPlan *memory, size_t n, const size_t bytes[OFFLOAD_ARRAYS]) {
    const size_t piece = n < OFFLOAD_PIECE ? n : OFFLOAD_PIECE;
    for (int a = 0; a < OFFLOAD_ARRAYS; a++) {
        o->bytes[a] = bytes[a];
        if (bytes[a] == 0) continue;
        o->host[a] = memory_take_host(memory, n * bytes[a]);
        for (int s = 0; s < OFFLOAD_SLOTS; s++)
            o->slots[s][a] = memory_take(memory, MEMORY_OPTIMIZER, piece * bytes[a]);
    }
}

int offload_add(Offload *o, size_t at, size_t count, Error *err) {
    const size_t pieces = (count + OFFLOAD_PIECE - 1) / OFFLOAD_PIECE;
    if (count == 0) return 0;
    OffloadPiece *grown = realloc(o->pieces, ((size_t)o->count + pieces) * sizeof *grown);
    if (!grown) return fail_fault(err, "no memory for the list of the optimizer's pieces");
    o->pieces = grown;
    for (size_t end = at + count; at < end; at += OFFLOAD_PIECE)
        o->pieces[o->count++] = (OffloadPiece){at, end - at < OFFLOAD_PIECE ? end - at : OFFLOAD_PIECE};
    return 0;
}

static void create_event(cudaEvent_t *event) { cuda_check(cudaEventCreateWithFlags(event, cudaEventDisableTiming)); }

void offload_start(Offload *o) {
    cuda_check(cudaStreamCreate(&o->in));
    cuda_check(cudaStreamCreate(&o->out));
    create_event(&o->begun);
    for (int s = 0; s < OFFLOAD_SLOTS; s++) {
        create_event(&o->arrived[s]);
        create_event(&o->used[s]);
        create_event(&o->left[s]);
    }
}

void offload_destroy(Offload *o) {
    free(o->pieces);
    if (!o->in) return;
    cuda_check(cudaStreamDestroy(o->in));
    cuda_check(cudaStreamDestroy(o->out));
    cuda_check(cudaEventDestroy(o->begun));
    for (int s = 0; s < OFFLOAD_SLOTS; s++) {
        cuda_check(cudaEventDestroy(o->arrived[s]));
        cuda_check(cudaEventDestroy(o->used[s]));
        cuda_check(cudaEventDestroy(o->left[s]));
    }
}

static void copy(const Offload *o, int piece, bool in, cudaStream_t stream) {
    const OffloadPiece p = o->pieces[piece];
    for (int a = 0; a < OFFLOAD_ARRAYS; a++) {
        if (o->bytes[a] == 0) continue;
        char *host = o->host[a] + p.at * o->bytes[a], *device = o->slots[piece % OFFLOAD_SLOTS][a];
        cuda_check(cudaMemcpyAsync(in ? device : host, in ? host : device, p.count * o->bytes[a],
                                   in ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost, stream));
    }
}

// Into its slot, once the piece there has left it. The same piece of the step before is then in host memory too: copies back
// are queued on one stream, and that one was the same or an earlier one.
static void fetch(Offload *o, int piece) {
    const int slot = piece % OFFLOAD_SLOTS;
    if (piece >= o->count) return;
    cuda_check(cudaStreamWaitEvent(o->in, o->left[slot], 0));
    copy(o, piece, true, o->in);
    cuda_check(cudaEventRecord(o->arrived[slot], o->in));
}

void offload_begin(Offload *o, cudaStream_t stream) {
    o->next = 0;
    cuda_check(cudaEventRecord(o->begun, stream));
    cuda_check(cudaStreamWaitEvent(o->in, o->begun, 0));
    for (int piece = 0; piece < OFFLOAD_SLOTS; piece++) fetch(o, piece);
}

OffloadPiece offload_take(Offload *o, void *arrays[OFFLOAD_ARRAYS], cudaStream_t stream) {
    const int slot = o->next % OFFLOAD_SLOTS;
    cuda_check(cudaStreamWaitEvent(stream, o->arrived[slot], 0));
    for (int a = 0; a < OFFLOAD_ARRAYS; a++) arrays[a] = o->bytes[a] ? o->slots[slot][a] : NULL;
    return o->pieces[o->next];
}

void offload_give(Offload *o, cudaStream_t stream) {
    const int slot = o->next % OFFLOAD_SLOTS;
    cuda_check(cudaEventRecord(o->used[slot], stream));
    cuda_check(cudaStreamWaitEvent(o->out, o->used[slot], 0));
    copy(o, o->next, false, o->out);
    cuda_check(cudaEventRecord(o->left[slot], o->out));
    fetch(o, o->next + OFFLOAD_SLOTS);
    o->next++;
}

void offload_end(Offload *o, cudaStream_t stream) {
    if (o->next) cuda_check(cudaStreamWaitEvent(stream, o->left[(o->next - 1) % OFFLOAD_SLOTS], 0)); // the last of all
}
