// The inputs of blocks between the forward pass and the backward pass, in page-locked host memory: on the device are those of
// the running block and of the next. While a block is computed, its input is copied to the host; in the backward pass the input
// of the block before it comes back meanwhile.
//
//   block_inputs_plan, block_inputs_start
//   → forward, for each block: block_input_wait → its input is written → block_input_written
//   → backward, from the last block on: block_input_wait → its input is read → block_input_used
#ifndef LLMC_MODEL_BLOCK_INPUTS_H
#define LLMC_MODEL_BLOCK_INPUTS_H

#include <stddef.h>

#include "device/device.h"
#include "model/memory.h"

enum { BLOCK_INPUT_SLOTS = 2 };

typedef struct {
    int first, end; // blocks [first, end) have their input here
    size_t bytes;   // of one
    char *host;     // [end - first - BLOCK_INPUT_SLOTS][bytes]: the last ones stay on the device
    char *slots[BLOCK_INPUT_SLOTS];
    cudaStream_t copies;
    cudaEvent_t computed[BLOCK_INPUT_SLOTS], copied[BLOCK_INPUT_SLOTS];
} BlockInputs;

// Takes the memory. Like all plans it is made twice, to measure and to place.
void block_inputs_plan(BlockInputs *b, MemoryPlan *memory, int first, int end, size_t bytes);
void block_inputs_start(BlockInputs *b);
void block_inputs_destroy(BlockInputs *b); // whoever frees the memory waits for the device

void *block_input(const BlockInputs *b, int block); // device memory, [bytes]

// The calls below do nothing for blocks that have their input elsewhere. `stream` is that on which blocks are computed; bytes:
// of an input, at most those that were planned.

void block_input_wait(BlockInputs *b, int block,
                      cudaStream_t stream); // what is queued next may write or read the input
void block_input_written(BlockInputs *b, int block, size_t bytes, cudaStream_t stream);
void block_input_used(BlockInputs *b, int block, size_t bytes, cudaStream_t stream);

#endif
