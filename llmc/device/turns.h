// Blocks of one launch that take their work, and turns at shared results, in a fixed order: integers decide who comes next, so
// that sums of floats keep their order. Counters are 0 before the launch.
//
// A GPU starts blocks in any order and may run them one after the other. A block that waits for another must know that this
// one runs already: so it takes its work by a ticket, and waits only for blocks with a lower one.
#ifndef LLMC_DEVICE_TURNS_H
#define LLMC_DEVICE_TURNS_H

#include "device/launch.h"
#include "device/ptx/fence.h"

// The block's number among those that asked so far, for all its threads.
__device__ __forceinline__ unsigned take_ticket(unsigned *next) {
    SHARED(unsigned, ticket, 1);
    if (threadIdx.x == 0) *ticket = atomicAdd(next, 1u);
    __syncthreads();
    return *ticket;
}

// How many turns have been passed, to be given to change_turns: asked early, the answer is there when it is needed.
__device__ __forceinline__ int look_at_turns(const int *passed) { return load_flag(passed); }

// Waits until `before` turns of `passed` have been passed, and then passes the turn `own` of `other` (NULL: none). By one
// thread, after a barrier that follows what the block wrote in that turn; what was written in turns before is there for all
// of the block after a barrier.
__device__ __forceinline__ void change_turns(const int *passed, int before, int looked, int *other, int own) {
    for (int look = 0; looked != before; look++) {
        wait_for_flag(look, looked, before);
        looked = load_flag(passed);
    }
    flag_fence();
    if (other) store_flag(other, own + 1);
}

#endif
