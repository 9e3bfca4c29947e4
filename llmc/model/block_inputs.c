#include "model/block_inputs.h"

#include <stdbool.h>

static int slot_of(const BlockInputs *b, int block) { return (block - b->first) % BLOCK_INPUT_SLOTS; }

void block_inputs_plan(BlockInputs *b, MemoryPlan *memory, int first, int end, size_t bytes) {
    const int on_host = end - first - BLOCK_INPUT_SLOTS;
    b->first = first;
    b->end = end;
    b->bytes = bytes;
    if (on_host > 0) b->host = memory_take_host(memory, (size_t)on_host * bytes);
    for (int s = 0; s < BLOCK_INPUT_SLOTS; s++) b->slots[s] = memory_take(memory, MEMORY_ACTIVATIONS, bytes);
}

void block_inputs_start(BlockInputs *b) {
    cuda_check(cudaStreamCreate(&b->copies));
    for (int s = 0; s < BLOCK_INPUT_SLOTS; s++) {
        cuda_check(cudaEventCreateWithFlags(&b->computed[s], cudaEventDisableTiming));
        cuda_check(cudaEventCreateWithFlags(&b->copied[s], cudaEventDisableTiming));
    }
}

void block_inputs_destroy(BlockInputs *b) {
    if (!b->copies) return;
    cuda_check(cudaStreamDestroy(b->copies));
    for (int s = 0; s < BLOCK_INPUT_SLOTS; s++) {
        cuda_check(cudaEventDestroy(b->computed[s]));
        cuda_check(cudaEventDestroy(b->copied[s]));
    }
}

void *block_input(const BlockInputs *b, int block) { return b->slots[slot_of(b, block)]; }

// Those of the last blocks never leave their slot.
static bool is_on_host(const BlockInputs *b, int block) {
    return block >= b->first && block < b->end - BLOCK_INPUT_SLOTS;
}

void block_input_wait(BlockInputs *b, int block, cudaStream_t stream) {
    if (b->copies && block >= b->first) cuda_check(cudaStreamWaitEvent(stream, b->copied[slot_of(b, block)], 0));
}

// Between the slot and the place of `block` on the host, after what `stream` holds. One stream for both ways: an input comes back
// after it left.
static void copy(BlockInputs *b, int block, bool in, size_t bytes, cudaStream_t stream) {
    const int slot = slot_of(b, block);
    char *host = b->host + (size_t)(block - b->first) * b->bytes, *device = b->slots[slot];
    cuda_check(cudaEventRecord(b->computed[slot], stream));
    cuda_check(cudaStreamWaitEvent(b->copies, b->computed[slot], 0));
    cuda_check(cudaMemcpyAsync(in ? device : host, in ? host : device, bytes,
                               in ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost, b->copies));
    cuda_check(cudaEventRecord(b->copied[slot], b->copies));
}

void block_input_written(BlockInputs *b, int block, size_t bytes, cudaStream_t stream) {
    if (b->copies && is_on_host(b, block)) copy(b, block, false, bytes, stream);
}

void block_input_used(BlockInputs *b, int block, size_t bytes, cudaStream_t stream) {
    if (b->copies && is_on_host(b, block - BLOCK_INPUT_SLOTS)) copy(b, block - BLOCK_INPUT_SLOTS, true, bytes, stream);
}
