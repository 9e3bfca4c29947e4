#include "model/memory.h"

#include "base/host_memory.h"
#include "device/device.h"

enum { ARENA_ALIGN = 256 };
enum { KERNELS_MIB = 256, NCCL_BUFFER_MIB = 4, NCCL_CHANNELS = 32 };

static const char *const kind_names[MEMORY_KINDS] = {
    [MEMORY_PARAMETERS] = "parameters",       [MEMORY_GRADIENTS] = "gradients",
    [MEMORY_OPTIMIZER] = "optimizer state",   [MEMORY_AVERAGE] = "averaged weights",
    [MEMORY_COMMUNICATION] = "communication", [MEMORY_ACTIVATIONS] = "activations",
    [MEMORY_KV_CACHE] = "KV cache",           [MEMORY_WORKSPACE] = "workspace",
    [MEMORY_CUDNN] = "cuDNN workspace",
};

size_t memory_gpu_reserve(int communicators) {
    return (size_t)(KERNELS_MIB + communicators * 2 * NCCL_CHANNELS * NCCL_BUFFER_MIB) << 20;
}

static void *take(Arena *arena, size_t bytes) {
    char *here = arena->base ? arena->base + arena->bytes : NULL;
    arena->bytes += (bytes + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
    return here;
}

void *memory_take(MemoryPlan *plan, MemoryKind kind, size_t bytes) { return take(&plan->arenas[kind], bytes); }
void *memory_take_host(MemoryPlan *plan, size_t bytes) { return take(&plan->host, bytes); }

MemoryTurns memory_begin_turns(MemoryPlan *plan, MemoryKind kind) {
    Arena *arena = &plan->arenas[kind];
    return (MemoryTurns){arena, arena->bytes, arena->bytes};
}

void memory_next_turn(MemoryTurns *turns) {
    if (turns->end < turns->arena->bytes) turns->end = turns->arena->bytes;
    turns->arena->bytes = turns->begin;
}

void memory_end_turns(MemoryTurns *turns) {
    memory_next_turn(turns);
    turns->arena->bytes = turns->end;
}

static size_t arena_total(const MemoryPlan *plan) {
    size_t total = 0;
    for (int kind = 0; kind < MEMORY_KINDS; kind++) total += plan->arenas[kind].bytes;
    return total;
}

static int out_of_memory(const MemoryPlan *plan, size_t free_bytes, Error *err) {
    const char *advice = plan->advice
                             ? plan->advice
                             : "a smaller --batch-size or --seq-len, --recompute block, --activations host or --optimizer-state host";
    char reserve[80] = "";
    if (plan->reserve_bytes)
        snprintf(reserve, sizeof reserve, ", of which %.1f MiB are for kernels and communication",
                 (double)plan->reserve_bytes / 1048576.0);
    return fail_fault(err, "out of memory: %.1f MiB needed, %.1f MiB free%s; %s needs less",
                      (double)arena_total(plan) / 1048576.0, (double)free_bytes / 1048576.0, reserve, advice);
}

static int allocate_host(Arena *host, Error *err) {
    const size_t free_bytes = host_memory_available();
    void **base = (void **)&host->base;
    if (host->bytes <= free_bytes && cudaHostAlloc(base, host->bytes, cudaHostAllocMapped) == cudaSuccess) return 0;
    cudaGetLastError(); // reported here
    host->base = NULL;
    return fail_fault(err,
                      "out of host memory: %.1f MiB of page-locked memory needed, %.1f MiB free; --optimizer-state "
                      "device and --activations device need none",
                      (double)host->bytes / 1048576.0, (double)free_bytes / 1048576.0);
}

int memory_allocate(MemoryPlan *plan, Error *err) {
    size_t free_bytes = 0, total_bytes = 0;
    cuda_check(cudaMemGetInfo(&free_bytes, &total_bytes));
    if (arena_total(plan) + plan->reserve_bytes > free_bytes) return out_of_memory(plan, free_bytes, err);
    for (int kind = 0; kind < MEMORY_KINDS; kind++) {
        Arena *arena = &plan->arenas[kind];
        if (arena->bytes == 0) continue;
        if (cudaMalloc((void **)&arena->base, arena->bytes) != cudaSuccess) {
            cudaGetLastError(); // reported here
            arena->base = NULL;
            memory_free(plan);
            return out_of_memory(plan, free_bytes, err);
        }
    }
    if (plan->host.bytes && allocate_host(&plan->host, err)) {
        memory_free(plan);
        return err->code;
    }
    for (int kind = 0; kind < MEMORY_KINDS; kind++) plan->arenas[kind].bytes = 0;
    plan->host.bytes = 0;
    return 0;
}

void memory_free(MemoryPlan *plan) {
    for (int kind = 0; kind < MEMORY_KINDS; kind++) {
        if (plan->arenas[kind].base) cuda_check(cudaFree(plan->arenas[kind].base));
        plan->arenas[kind].base = NULL;
    }
    if (plan->host.base) cuda_check(cudaFreeHost(plan->host.base));
    plan->host.base = NULL;
}

MemoryPlan memory_sum(const MemoryPlan *a, const MemoryPlan *b) {
    MemoryPlan sum = {.library_bytes = a->library_bytes + b->library_bytes,
                      .reserve_bytes = a->reserve_bytes > b->reserve_bytes ? a->reserve_bytes : b->reserve_bytes};
    for (int kind = 0; kind < MEMORY_KINDS; kind++)
        sum.arenas[kind].bytes = a->arenas[kind].bytes + b->arenas[kind].bytes;
    sum.host.bytes = a->host.bytes + b->host.bytes;
    return sum;
}

static void print_line(FILE *to, const char *name, size_t bytes, size_t total) {
    fprintf(to, "  %-16s %9.1f MiB %5.1f %%\n", name, (double)bytes / 1048576.0, 100.0 * (double)bytes / (double)total);
}

void memory_print(const MemoryPlan *plan, FILE *to) {
    const size_t total = arena_total(plan) + plan->library_bytes + plan->reserve_bytes;
    fprintf(to, "memory\n");
    for (int kind = 0; kind < MEMORY_KINDS; kind++)
        if (plan->arenas[kind].bytes) print_line(to, kind_names[kind], plan->arenas[kind].bytes, total);
    if (plan->library_bytes) print_line(to, "matrix library", plan->library_bytes, total);
    if (plan->reserve_bytes) print_line(to, "reserve", plan->reserve_bytes, total);
    print_line(to, "total", total, total);
    if (plan->host.bytes) fprintf(to, "  %-16s %9.1f MiB\n", "host memory", (double)plan->host.bytes / 1048576.0);
}

int memory_text(char *text, size_t capacity, const MemoryPlan *plan, Error *err) {
    size_t length = 0;
    for (int kind = 0; kind < MEMORY_KINDS && length < capacity; kind++)
        length += (size_t)snprintf(text + length, capacity - length, "%s\"%s\": %zu", kind ? ", " : "{",
                                   kind_names[kind], plan->arenas[kind].bytes);
    if (length < capacity)
        length += (size_t)snprintf(text + length, capacity - length,
                                   ", \"matrix library\": %zu, \"reserve\": %zu, \"host memory\": %zu}",
                                   plan->library_bytes, plan->reserve_bytes, plan->host.bytes);
    return length < capacity ? 0 : fail_fault(err, "a memory plan takes more than %zu bytes of text", capacity);
}
