// Memory is planned up front: there is an arena for each purpose; a first pass over the model's needs measures it, and a
// second hands its pieces out.
#ifndef LLMC_MODEL_MEMORY_H
#define LLMC_MODEL_MEMORY_H

#include <stddef.h>
#include <stdio.h>

#include "base/error.h"

typedef enum {
    MEMORY_PARAMETERS,
    MEMORY_GRADIENTS,
    MEMORY_OPTIMIZER,
    MEMORY_AVERAGE,       // of the weights over steps
    MEMORY_COMMUNICATION, // gradients on their way to the rank that owns them
    MEMORY_ACTIVATIONS,
    MEMORY_KV_CACHE, // of a decoder
    MEMORY_WORKSPACE,
    MEMORY_CUDNN, // of its attention
    MEMORY_KINDS,
} MemoryKind;

typedef struct {
    char *base;   // NULL while the plan is being measured
    size_t bytes; // taken so far
} Arena;

typedef struct {
    Arena arenas[MEMORY_KINDS];
    Arena host;           // page-locked host memory, beside what the device holds
    size_t library_bytes; // taken by the library of matrix products
    size_t reserve_bytes; // of what is free, left to what comes later
    const char *advice;   // what would need less memory, for the error message; NULL: training options
} MemoryPlan;

// What a GPU gives away after the plan was allocated, in bytes, in a run with so many communicators. Estimates, meant to be
// too large rather than too small, as no GPU has been asked yet:
//   256 MiB      kernels, which are loaded when they are first launched, and the local memory of their threads
//   256 MiB for  each communicator, whose buffers NCCL makes at its first collective: 4 MiB (the default of
//                NCCL_BUFFSIZE in NCCL's documentation) for each of at most 32 channels, in both directions
// The workspace of cuBLASLt is not in it: it is allocated before the plan.
size_t memory_gpu_reserve(int communicators);

// The next `bytes` of the arena, aligned to 256 bytes: a device pointer, or NULL while the plan is being measured.
void *memory_take(MemoryPlan *plan, MemoryKind kind, size_t bytes);

// What is in use at different times has the same memory: that which is taken after begin, after each next, and up to end.
typedef struct {
    Arena *arena;
    size_t begin, end;
} MemoryTurns;
MemoryTurns memory_begin_turns(MemoryPlan *plan, MemoryKind kind);
void memory_next_turn(MemoryTurns *turns);
void memory_end_turns(MemoryTurns *turns);

void *memory_take_host(MemoryPlan *plan, size_t bytes); // likewise of page-locked host memory, mapped for kernels

// Allocates every arena at the size measured so far, then rewinds so that the same calls of memory_take give pointers.
// Errors: 1 if less than reserve_bytes would stay free, naming bytes needed, free and reserved, or if the host
// has too little; nothing stays allocated.
int memory_allocate(MemoryPlan *plan, Error *err);
void memory_free(MemoryPlan *plan);

// What two plans take together, for printing: the sum owns no memory. They share the larger reserve.
MemoryPlan memory_sum(const MemoryPlan *a, const MemoryPlan *b);

// Prints a table with a line for each arena that is not empty (MiB and share of the total), for the library and the reserve,
// and the total; after it, page-locked host memory, if there is any.
void memory_print(const MemoryPlan *plan, FILE *to);

// text = a JSON object: bytes by the names of that table, empty arenas and "host memory" included. Errors: 1 (longer than
// capacity).
int memory_text(char *text, size_t capacity, const MemoryPlan *plan, Error *err);

#endif
