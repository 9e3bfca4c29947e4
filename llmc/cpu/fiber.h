// Runs kernels on the CPU: blocks over threads, and each thread of a block as a fiber.
//
// Threads meet at a *rendezvous*: each gives a pointer to its own data; the last to arrive works for all and then
// everybody goes on. A barrier is a rendezvous without work; a shuffle, a reduction or a tensor-core product is one with.
// Sites (file and line) are compared, so that threads which meet at different calls are reported.
#ifndef LLMC_CPU_FIBER_H
#define LLMC_CPU_FIBER_H

#include <stddef.h>
#include <stdint.h>

#include "fast_math.h"
#include "launch_record.h"
#include "parallel.h"
#include "streams.h"
#include "vector_types.h"

struct HostBlock {
    uint3 index;
    dim3 block_dim, grid_dim;
    const char *kernel; // its name as written at the launch
};

struct HostThread {
    uint3 index;
    int linear;              // x fastest, then y, then z
    int shared_next;         // how many shared arrays this thread has declared in this block
    struct HostFiber *fiber; // NULL in a kernel launched without exchange between threads
};

extern __thread HostBlock *host_block;
extern __thread HostThread *host_thread;

// A kernel with its arguments bound.
struct HostKernel {
    const char *name; // with its template arguments
    void (*call)(const void *self);
    const void *self;
};

// Runs every block of the grid; returns when all have finished. A block has a multiple of 32 threads, at most 1024.
// dynamic_shared: bytes that host_shared_dynamic() points to.
void host_launch(const HostKernel &kernel, dim3 grid, dim3 block, size_t dynamic_shared);

// Threads may run in any order: seed 0 takes the natural one, any other value shuffles threads and blocks. A result that
// moves with the seed is a race. The environment variable LLMC_HOST_SEED sets it at start.
extern "C" void host_set_seed(uint64_t seed);
uint64_t host_seed();
// Whether warps are to have lanes where they need none (device/wide_warps.h): LLMC_HOST_LANES=1.
bool host_lanes();

// Prints a line with kernel and block and ends the program with code 1.
[[noreturn]] void host_report(const char *message);

// Shared memory of the running block, poisoned when the block begins, with guards that AddressSanitizer knows.
void *host_shared(size_t bytes);
void *host_shared_dynamic();

// Arrive with `slot`; true for the last thread of the warp (block) to arrive: it finds everyone's slots, works, and then
// releases the others. Use the two functions below.
bool host_warp_arrive(void *slot, const char *file, int line);
void **host_warp_slots();
void host_warp_release();
bool host_block_arrive(void *slot, const char *file, int line);
void **host_block_slots();
void host_block_release();

// work(slots): slots[lane] for the 32 lanes.
template <typename Work>
inline void host_warp_rendezvous(void *slot, Work work, const char *file = __builtin_FILE(),
                                 int line = __builtin_LINE()) {
    if (!host_warp_arrive(slot, file, line)) return;
    work(host_warp_slots());
    host_warp_release();
}

// work(slots, n): slots[thread] for the n threads of the block.
template <typename Work>
inline void host_block_rendezvous(void *slot, Work work, const char *file = __builtin_FILE(),
                                  int line = __builtin_LINE()) {
    if (!host_block_arrive(slot, file, line)) return;
    work(host_block_slots(), (int)(host_block->block_dim.x * host_block->block_dim.y * host_block->block_dim.z));
    host_block_release();
}

// One thread of a kernel.
template <typename Body> inline void host_run_thread(const void *body) {
    const HostFlushing flushing;
    (*(const Body *)body)();
}

template <typename Body>
inline void host_launch(const char *name, dim3 grid, dim3 block, size_t dynamic_shared, Body body) {
    HostKernel kernel = {name, host_run_thread<Body>, &body};
    host_launch(kernel, grid, block, dynamic_shared);
}

// Ends the program if a GPU would refuse the launch, or the CPU target can't do it.
void host_check_launch(const char *name, dim3 grid, dim3 block, size_t shared_bytes, bool fibers);

// True if a seed is set (or races are looked for): then it has run the kernel, threads and blocks in the seed's order.
bool host_launch_shuffled(const HostKernel &kernel, dim3 grid, dim3 block);

// For kernels whose threads exchange nothing: plain loops, no fibers, the kernel inlined into the loop.
template <typename Body> inline void host_launch_pointwise(const char *name, dim3 grid, dim3 block, Body body) {
    const Body copy = body; // `body` itself stays in registers
    HostKernel kernel = {name, host_run_thread<Body>, &copy};
    if (host_launch_shuffled(kernel, grid, block)) return;
    host_parallel_runs((long)grid.x * grid.y * grid.z, [&](long begin, long end) {
        const HostFlushing flushing;
        HostBlock here = {{0, 0, 0}, block, grid, name};
        HostThread self = {{0, 0, 0}, 0, 0, nullptr};
        host_block = &here;
        host_thread = &self;
        for (long b = begin; b < end; b++) {
            here.index = {(unsigned)(b % grid.x), (unsigned)(b / grid.x % grid.y), (unsigned)(b / grid.x / grid.y)};
            self.linear = 0;
            for (self.index.z = 0; self.index.z < block.z; self.index.z++)
                for (self.index.y = 0; self.index.y < block.y; self.index.y++)
                    for (self.index.x = 0; self.index.x < block.x; self.index.x++, self.linear++) body();
        }
        host_block = nullptr;
        host_thread = nullptr;
    });
}

// What launch.h's launches are: a GPU's checks, arguments evaluated by now, and the kernel when the stream comes to it.
template <typename Kernel, typename... Args>
inline void host_submit(const char *name, dim3 grid, dim3 block, size_t dynamic_shared, HostStream *stream,
                        Kernel kernel, Args... args) {
    host_check_launch(name, grid, block, dynamic_shared, true);
    host_queue(
        stream, [=]() __attribute__((noinline)) {
            host_launch(name, grid, block, dynamic_shared, [=] { kernel(args...); });
        });
}
template <typename Kernel, typename... Args>
inline void host_submit_pointwise(const char *name, dim3 grid, dim3 block, HostStream *stream, Kernel kernel,
                                  Args... args) {
    host_check_launch(name, grid, block, 0, false);
    host_queue(
        stream, [=]() __attribute__((noinline)) {
            host_launch_pointwise(
                name, grid, block, [=]() __attribute__((always_inline)) { kernel(args...); });
        });
}

#endif
