// What the files behind fiber.h share: the state of a worker, which is a thread that runs one block at a time.
#ifndef LLMC_CPU_WORKER_H
#define LLMC_CPU_WORKER_H

#include <memory>
#include <vector>

#include "fiber.h"

#if defined(__SANITIZE_ADDRESS__)
#define CHECKED_BUILD 1
#else
#define CHECKED_BUILD 0
#endif
#ifdef LLMC_HOST_RACES // these files are not instrumented themselves
#define RACE_BUILD 1
#else
#define RACE_BUILD 0
#endif

// Hidden, so that calls within a file of a shared library can be inlined.
#pragma GCC visibility push(hidden)
namespace fibers {

enum { MAX_THREADS = 1024, LANES = 32, MAX_WARPS = MAX_THREADS / LANES };
enum { SHARED_LIMIT = 99 * 1024 }; // of a block, on the GPUs that give the least (sm_86, sm_89, sm_120)
enum { MAX_BLOCK_Z = 64 };
enum { MAX_SHARED_ARRAYS = 32 };

enum State { READY, AT_WARP, AT_BLOCK, FINISHED };

} // namespace fibers
#pragma GCC visibility pop

struct HostFiber {
    HostThread thread = {};
    void *context = nullptr; // a Boost fcontext_t, where it goes on
    fibers::State state = fibers::FINISHED;
    const char *file = nullptr; // where it waits, or last did; NULL until it does in this block
    int line = 0;
    char *stack = nullptr;
    size_t stack_bytes = 0;
    void *fake_stack = nullptr; // AddressSanitizer's
    void *race_fiber = nullptr; // ThreadSanitizer's
};

#pragma GCC visibility push(hidden)
namespace fibers {

// A meeting point of `expected` threads.
struct Rendezvous {
    int arrived = 0;
    const char *file = nullptr;
    int line = 0;
    void *slots[MAX_THREADS];
    unsigned round = 0; // how often it was met
};

struct Worker {
    HostBlock block = {};
    const HostKernel *kernel = nullptr;
    std::vector<std::unique_ptr<HostFiber>> fibers;
    int num_threads = 0, finished = 0;
    bool exchange = true; // may threads meet?

    HostFiber *ready[MAX_THREADS]; // ring
    unsigned ready_first = 0, ready_count = 0;
    uint64_t random = 0; // 0: natural order

    Rendezvous warps[MAX_WARPS], barrier;

    HostFiber outside; // the worker itself
    HostFiber *current = nullptr;

    char *shared = nullptr;
    size_t shared_bytes = 0, shared_used = 0;
    void *dynamic = nullptr;
    void *shared_arrays[MAX_SHARED_ARRAYS];
    size_t shared_sizes[MAX_SHARED_ARRAYS];
    int shared_count = 0;

    ~Worker();
};

Worker &worker(); // of the calling thread

void *map_memory(size_t bytes, const char *what); // or ends the program

// ---- scheduler.cpp

void add_fibers(Worker &w, int count); // as many as `count`, with stacks
void run_fibers(Worker &w);            // all threads of w.block, to their end
void run_alone(Worker &w);             // the only thread of w.block
void drop_stacks(Worker &w);

// ---- shared_memory.cpp

void reset_shared(Worker &w, size_t dynamic_bytes); // of a new block
void drop_shared(Worker &w);

// ---- report.cpp: each prints a line with kernel and block and ends the program with code 1

[[noreturn]] void report_divergence(const Worker &w); // nobody can go on and not everybody has returned
[[noreturn]] void report_sites(const Worker &w, const Rendezvous &meeting, const char *file, int line);
[[noreturn]] void report(const Worker &w, const char *message);
[[noreturn]] void report_meeting(); // of threads that are no fibers

// A kernel that launch_pointwise launched has none.
inline void need_fibers() {
    if (!host_thread->fiber) report_meeting();
}

} // namespace fibers
#pragma GCC visibility pop

#endif
