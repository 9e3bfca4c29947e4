// Arrays in page-locked host memory that are updated on the device, piece by piece: while one piece is updated, the next one is
// copied in and the one before copied back, each way on its own stream.
//
//   offload_plan, offload_add for each run of elements in the order of updates, offload_start
//   → a step: offload_begin → for each piece, in that order: offload_take → the update → offload_give; then offload_end
//
// The first pieces are copied in from offload_begin on, whatever the caller's stream does until then.
#ifndef LLMC_MODEL_OFFLOAD_H
#define LLMC_MODEL_OFFLOAD_H

#include <stddef.h>

#include "base/error.h"
#include "device/device.h"
#include "model/memory.h"

enum {
    OFFLOAD_ARRAYS = 3,
    OFFLOAD_SLOTS = 3,       // one piece arrives, one is updated, one leaves
    OFFLOAD_PIECE = 1 << 20, // elements at most
};

typedef struct {
    size_t at, count; // elements [at, at + count) of each array
} OffloadPiece;

typedef struct {
    char *host[OFFLOAD_ARRAYS];
    size_t bytes[OFFLOAD_ARRAYS];               // of an element; 0: there is no such array
    char *slots[OFFLOAD_SLOTS][OFFLOAD_ARRAYS]; // device memory of a piece; pieces take turns
    OffloadPiece *pieces;
    int count, next; // next: the one to be taken
    cudaStream_t in, out;
    cudaEvent_t begun, arrived[OFFLOAD_SLOTS], used[OFFLOAD_SLOTS], left[OFFLOAD_SLOTS];
} Offload;

// Takes host memory for n elements of each array whose element has bytes, and device memory for OFFLOAD_SLOTS pieces of them,
// which are no longer than n. *o is zero the first time; like all plans it is made twice, to measure and to place.
void offload_plan(Offload *o, MemoryPlan *memory, size_t n, const size_t bytes[OFFLOAD_ARRAYS]);

// Elements [at, at + count) are updated next. Errors: 1 (memory)
int offload_add(Offload *o, size_t at, size_t count, Error *err);

void offload_start(Offload *o);

// No copy is under way, or whoever frees the memory waits for the device.
void offload_destroy(Offload *o);

// A step begins: pieces are copied in after what `stream` holds. One that was begun before and not ended is dropped, if
// none of its pieces was taken.
void offload_begin(Offload *o, cudaStream_t stream);

// Returns the next piece; `arrays` are device memory, [count] each, NULL for one that does not exist, for what is queued on the
// stream until offload_give, which takes the piece back to the host after it.
OffloadPiece offload_take(Offload *o, void *arrays[OFFLOAD_ARRAYS], cudaStream_t stream);
void offload_give(Offload *o, cudaStream_t stream);

// What is queued on `stream` from here on finds the host's arrays updated.
void offload_end(Offload *o, cudaStream_t stream);

#endif
