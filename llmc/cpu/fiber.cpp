// The fiber scheduler behind fiber.h. Each OpenMP thread (worker) runs one block at a time; the block's threads are
// fibers that it keeps from block to block. A fiber runs until it must wait at a rendezvous, then jumps straight to the
// next one that is ready.
#include "fiber.h"

#include <boost/context/detail/fcontext.hpp>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <omp.h>

#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define CHECKED_BUILD 1
#else
#define CHECKED_BUILD 0
#endif
#ifdef LLMC_HOST_RACES // this file is not instrumented itself
#include <sanitizer/tsan_interface.h>
#define RACE_BUILD 1
#else
#define RACE_BUILD 0
#endif

namespace context = boost::context::detail;

__thread HostBlock *host_block;
__thread HostThread *host_thread;

static uint64_t order_seed;

uint64_t host_seed() { return order_seed; }
extern "C" void host_set_seed(uint64_t seed) { order_seed = seed; }

__attribute__((constructor)) static void read_seed() {
    const char *text = getenv("LLMC_HOST_SEED");
    if (text) order_seed = strtoull(text, nullptr, 10);
}

namespace {

enum { MAX_THREADS = 1024, LANES = 32, MAX_WARPS = MAX_THREADS / LANES };
enum { STACK_BYTES = CHECKED_BUILD ? 512 * 1024 : 128 * 1024 };
// Stacks that begin at the same offset of a page would share the same few cache sets.
enum { STACK_STAGGER = 64 * 9, STAGGER_STEPS = 56 };
enum { SHARED_ALIGN = 128, SHARED_GUARD = 128, MAX_SHARED_ARRAYS = 32 };
enum { SHARED_LIMIT = 227 * 1024 }; // the most that any GPU so far gives a block
enum { SHARED_BYTES = SHARED_LIMIT + (MAX_SHARED_ARRAYS + 1) * (SHARED_ALIGN + SHARED_GUARD) };
enum { GUARD_PAGE = 4096 };

enum State { READY, AT_WARP, AT_BLOCK, FINISHED };

} // namespace

struct HostFiber {
    HostThread thread = {};
    context::fcontext_t context = nullptr;
    State state = FINISHED;
    const char *file = nullptr; // where it waits
    int line = 0;
    char *stack = nullptr;
    size_t stack_bytes = 0;
    void *fake_stack = nullptr; // AddressSanitizer's
    void *race_fiber = nullptr; // ThreadSanitizer's
};

namespace {

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
    size_t shared_used = 0;
    void *dynamic = nullptr;
    void *shared_arrays[MAX_SHARED_ARRAYS];
    size_t shared_sizes[MAX_SHARED_ARRAYS];
    int shared_count = 0;

    ~Worker() {
        drop_stacks();
        drop_shared();
    }

    void drop_stacks() {
        for (auto &fiber : fibers) {
            if (!fiber->stack) continue;
            munmap(fiber->stack, STACK_BYTES);
            fiber->stack = nullptr;
#if RACE_BUILD
            __tsan_destroy_fiber(fiber->race_fiber);
#endif
        }
    }

    void drop_shared() {
        if (shared) munmap(shared, SHARED_BYTES);
        shared = nullptr;
    }

    void drop_fibers() {
        for (auto &fiber : fibers) {
            munmap(fiber->stack, STACK_BYTES);
#if RACE_BUILD
            __tsan_destroy_fiber(fiber->race_fiber);
#endif
        }
        fibers.clear();
    }
};

// Reached through a function: its address must not be kept across a switch by code that another file inlines.
// Thread-local is only the pointer: a library that Python loads gets little thread-local space.
Worker &worker() {
    static __thread Worker *instance;
    if (!instance) {
        static thread_local std::unique_ptr<Worker> owner(new Worker);
        instance = owner.get();
    }
    return *instance;
}

// ---- ready queue

uint64_t next_random(uint64_t &state) { // xorshift64*
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 2685821657736338717ull;
}

void make_ready(Worker &w, HostFiber *fiber) {
    fiber->state = READY;
    w.ready[(w.ready_first + w.ready_count++) % MAX_THREADS] = fiber;
}

HostFiber *take_ready(Worker &w) {
    HostFiber *&first = w.ready[w.ready_first % MAX_THREADS];
    if (w.random) std::swap(first, w.ready[(w.ready_first + next_random(w.random) % w.ready_count) % MAX_THREADS]);
    w.ready_first++;
    w.ready_count--;
    return first;
}

// ---- what ThreadSanitizer is told (SANITIZE=thread)
//
// Every thread of every block is a thread of its own to it, ordered against others by nothing but rendezvous and launches:
// it then finds two threads, of one block or of two, that touch the same memory unordered, whatever order they really ran in.

#if RACE_BUILD
enum { RACE_BLOCKS = 8 };

// What each rendezvous orders is noted at one of two addresses in turn: a thread that goes on late must not seem to be
// ordered after what others do on their way to the next round.
struct RaceTokens {
    uint64_t barrier[2], warps[MAX_WARPS][2];
};
__thread RaceTokens *race_tokens; // fresh for each block
__thread bool race_blocks_ordered;
uint64_t race_launched, race_finished; // order a launch's blocks behind what was before it, before what follows

void *race_token(Worker &w, Rendezvous &meeting) {
    if (&meeting == &w.barrier) return &race_tokens->barrier[meeting.round % 2];
    return &race_tokens->warps[&meeting - w.warps][meeting.round % 2];
}
void race_give(void *token) { __tsan_release(token); }
void race_take(void *token) { __tsan_acquire(token); }
#else
void *race_token(Worker &, Rendezvous &) { return nullptr; }
void race_give(void *) {}
void race_take(void *) {}
#endif

// ---- reports

// The kernel's name as written at the launch, without the parentheses that keep template commas together.
void print_place(const Worker &w) {
    fprintf(stderr, "llmc: kernel %s, block (%u,%u,%u): ", w.kernel->name, w.block.index.x, w.block.index.y,
            w.block.index.z);
}

void print_thread(const HostFiber &fiber) {
    fprintf(stderr, "thread (%u,%u,%u) ", fiber.thread.index.x, fiber.thread.index.y, fiber.thread.index.z);
    if (fiber.state == FINISHED)
        fprintf(stderr, "has returned");
    else
        fprintf(stderr, "waits at %s:%d", fiber.file, fiber.line);
}

[[noreturn]] void stop() {
    fprintf(stderr, "\n");
    fflush(nullptr);
    _Exit(1);
}

// Nobody can go on and not everybody has returned: name one thread that waits and one that is not there.
[[noreturn]] void report_divergence(Worker &w) {
    const HostFiber *waiting = nullptr, *other = nullptr;
    for (int t = 0; t < w.num_threads && !waiting; t++)
        if (w.fibers[t]->state != FINISHED) waiting = w.fibers[t].get();
    for (int t = 0; t < w.num_threads && !other; t++) {
        const HostFiber *fiber = w.fibers[t].get();
        if (fiber->state != waiting->state || fiber->line != waiting->line) other = fiber;
    }
    print_place(w);
    fprintf(stderr, "a barrier is not reached by all threads: ");
    print_thread(*waiting);
    if (other) fprintf(stderr, ", "), print_thread(*other);
    stop();
}

[[noreturn]] void report_sites(Worker &w, const Rendezvous &meeting, const char *file, int line) {
    print_place(w);
    fprintf(stderr, "threads meet at different barriers: thread (%u,%u,%u) at %s:%d, others at %s:%d",
            host_thread->index.x, host_thread->index.y, host_thread->index.z, file, line, meeting.file, meeting.line);
    stop();
}

[[noreturn]] void report(const char *message) {
    print_place(worker());
    fprintf(stderr, "%s", message);
    stop();
}

// ---- switching

// Ends a switch on the side that was switched to.
void arrive_from(HostFiber *self, context::transfer_t transfer) {
    HostFiber *from = (HostFiber *)transfer.data;
    from->context = transfer.fctx;
#if CHECKED_BUILD
    const void *bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(self->fake_stack, &bottom, &bytes);
    from->stack = (char *)bottom; // learns the worker's own stack; the same for fibers
    from->stack_bytes = bytes;
#else
    (void)self;
#endif
}

void switch_to(Worker &w, HostFiber *to) {
    HostFiber *from = w.current;
    if (from == to) return;
    w.current = to;
    host_thread = &to->thread;
#if CHECKED_BUILD
    __sanitizer_start_switch_fiber(&from->fake_stack, to->stack, to->stack_bytes);
#endif
#if RACE_BUILD
    __tsan_switch_to_fiber(to->race_fiber, __tsan_switch_to_fiber_no_sync);
#endif
    arrive_from(from, context::jump_fcontext(to->context, from));
}

void wait(Worker &w) {
    if (w.ready_count == 0) report_divergence(w);
    switch_to(w, take_ready(w));
}

void fiber_main(context::transfer_t transfer) {
    Worker &w = worker();
    HostFiber *self = w.current;
    arrive_from(self, transfer);
    for (;;) { // once a block
#if RACE_BUILD
        if (race_blocks_ordered) race_take(&race_finished);
#endif
        w.kernel->call(w.kernel->self);
        self->state = FINISHED;
#if RACE_BUILD
        race_give(&race_finished);
#endif
        if (++w.finished == w.num_threads)
            switch_to(w, &w.outside);
        else
            wait(w);
    }
}

void *map_memory(size_t bytes, const char *what) {
    void *memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory != MAP_FAILED) return memory;
    fprintf(stderr, "llmc: no memory for %s (%zu KiB)\n", what, bytes / 1024);
    _Exit(1);
}

void give_stack(HostFiber &fiber) {
    fiber.stack = (char *)map_memory(STACK_BYTES, "the stack of a kernel thread");
    fiber.stack_bytes = STACK_BYTES;
    if (CHECKED_BUILD) mprotect(fiber.stack, GUARD_PAGE, PROT_NONE); // too deep is a fault, not another's data
    char *top = fiber.stack + STACK_BYTES - fiber.thread.linear % STAGGER_STEPS * STACK_STAGGER;
    fiber.context = context::make_fcontext(top, (size_t)(top - fiber.stack), fiber_main);
#if RACE_BUILD
    fiber.race_fiber = __tsan_create_fiber(0);
#endif
}

void add_fibers(Worker &w, int count) {
    for (int t = RACE_BUILD ? 0 : (int)w.fibers.size(); t < count; t++) {
        if (t == (int)w.fibers.size()) w.fibers.push_back(std::make_unique<HostFiber>());
        w.fibers[t]->thread.linear = t;
        if (!w.fibers[t]->stack) give_stack(*w.fibers[t]);
    }
}

// ---- shared memory

// NaN in natural order. A maximum may swallow NaN, so other orders find huge numbers of either sign (3.4e38, -1.7e38 in
// both types): a result that uses them moves with the seed.
int shared_poison() { return !order_seed ? 0xFF : order_seed % 2 ? 0x7F : 0xFE; }

void *take_shared(Worker &w, size_t bytes) {
    size_t rounded = (bytes + SHARED_ALIGN - 1) / SHARED_ALIGN * SHARED_ALIGN;
    if (w.shared_used + rounded + SHARED_GUARD > SHARED_BYTES) report("more than 227 KiB of shared memory");
    char *start = w.shared + w.shared_used;
    w.shared_used += rounded + SHARED_GUARD;
#if CHECKED_BUILD
    ASAN_UNPOISON_MEMORY_REGION(start, bytes);
#endif
    if (!RACE_BUILD) memset(start, shared_poison(), bytes);
    return start;
}

void reset_shared(Worker &w, size_t dynamic_bytes) {
    if (!w.shared) w.shared = (char *)map_memory(SHARED_BYTES, "shared memory");
#if CHECKED_BUILD
    ASAN_POISON_MEMORY_REGION(w.shared, SHARED_BYTES);
#endif
#if RACE_BUILD // at once, before there are threads that it could race
    memset(w.shared, shared_poison(), SHARED_BYTES);
    race_give(&race_finished); // see start_block
#endif
    w.shared_used = SHARED_GUARD;
    w.shared_count = 0;
    w.dynamic = take_shared(w, dynamic_bytes);
}

// ---- blocks

void start_threads(Worker &w) {
    const dim3 size = w.block.block_dim;
    w.ready_first = w.ready_count = 0;
    w.finished = 0;
    w.barrier.arrived = 0;
    for (int warp = 0; warp < w.num_threads / LANES; warp++) w.warps[warp].arrived = 0;
    for (int t = 0; t < w.num_threads; t++) {
        HostThread &thread = w.fibers[t]->thread;
        thread.index = {t % size.x, t / size.x % size.y, t / size.x / size.y};
        thread.shared_next = 0;
        thread.fiber = w.exchange ? w.fibers[t].get() : nullptr;
        make_ready(w, w.fibers[t].get());
    }
}

void run_block(Worker &w, size_t dynamic_shared) {
    reset_shared(w, dynamic_shared);
    add_fibers(w, w.num_threads);
    start_threads(w);
    w.current = &w.outside;
    switch_to(w, take_ready(w));
}

#if RACE_BUILD
// Nothing may be left by which a block would seem to be ordered after the worker's block before. That takes time: beyond
// the worker's first blocks of a launch only the threads within a block are watched.
void start_block(Worker &w, int nth) {
    race_blocks_ordered = nth >= RACE_BLOCKS;
    if (race_blocks_ordered) return race_take(&race_finished);
    w.outside.race_fiber = __tsan_get_current_fiber();
    w.drop_stacks();
    w.drop_shared();
    free(race_tokens);
    race_tokens = (RaceTokens *)calloc(1, sizeof(RaceTokens));
}
void start_launch() { race_give(&race_launched); }
void join_launch() { race_take(&race_launched); }
void finish_launch() { race_take(&race_finished); }
#else
void start_block(Worker &, int) {}
void start_launch() {}
void join_launch() {}
void finish_launch() {}
#endif

// Blocks in a seeded order: i -> (i * odd + offset) mod 2^k, walking past those beyond the grid.
long shuffled_block(long i, long blocks, uint64_t seed) {
    uint64_t size = 1;
    while (size < (uint64_t)blocks) size *= 2;
    uint64_t at = (uint64_t)i;
    do at = (at * (4 * (seed % 1021) + 5) + (seed / 1021 * 2 + 1)) & (size - 1);
    while (at >= (uint64_t)blocks);
    return (long)at;
}

void run_grid(const HostKernel &kernel, dim3 grid, dim3 block, size_t dynamic_shared, bool exchange) {
    const long blocks = (long)grid.x * grid.y * grid.z;
    long next = 0;
    start_launch();
#pragma omp parallel if (blocks > 1)
    {
        join_launch();
        Worker &w = worker();
        w.kernel = &kernel;
        w.num_threads = (int)(block.x * block.y * block.z);
        w.exchange = exchange;
        w.block.block_dim = block;
        w.block.grid_dim = grid;
        host_block = &w.block;
        for (int nth = 0;;) {
            long i = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED);
            if (i >= blocks) break;
            long b = order_seed ? shuffled_block(i, blocks, order_seed) : i;
            w.random = order_seed ? order_seed * 0x9E3779B97F4A7C15ull + (uint64_t)b + 1 : 0;
            w.block.index = {(unsigned)(b % grid.x), (unsigned)(b / grid.x % grid.y), (unsigned)(b / grid.x / grid.y)};
            start_block(w, nth++);
            run_block(w, dynamic_shared);
        }
    }
    finish_launch();
}

} // namespace

void host_check_launch(const char *name, dim3 grid, dim3 block, size_t shared_bytes, bool fibers) {
    const long threads = (long)block.x * block.y * block.z;
    const bool grid_fits = grid.x && grid.y && grid.z && grid.x < 1u << 31 && grid.y < 1u << 16 && grid.z < 1u << 16;
    if (threads > 0 && threads <= MAX_THREADS && (!fibers || threads % LANES == 0) && grid_fits &&
        shared_bytes <= SHARED_LIMIT)
        return;
    fprintf(stderr, "llmc: kernel %s: ", name);
    if (!grid_fits)
        fprintf(stderr, "grid of %ux%ux%u blocks, expected 1 to 2147483647 x 65535 x 65535\n", grid.x, grid.y, grid.z);
    else if (shared_bytes > SHARED_LIMIT)
        fprintf(stderr, "%zu bytes of shared memory, expected at most %d\n", shared_bytes, SHARED_LIMIT);
    else
        fprintf(stderr, "block of %ld threads, expected a multiple of 32 up to 1024\n", threads);
    _Exit(1);
}

void host_launch(const HostKernel &kernel, dim3 grid, dim3 block, size_t dynamic_shared) {
    host_check_launch(kernel.name, grid, block, dynamic_shared, true);
    run_grid(kernel, grid, block, dynamic_shared, true);
}

bool host_launch_shuffled(const HostKernel &kernel, dim3 grid, dim3 block) {
    if (!order_seed && !RACE_BUILD) return false;
    run_grid(kernel, grid, block, 0, false);
    return true;
}

// ---- what running threads call

static bool arrive(Rendezvous &meeting, int expected, int place, State state, void *slot, const char *file, int line) {
    Worker &w = worker();
    HostFiber *self = w.current;
    if (meeting.arrived == 0) {
        meeting.file = file;
        meeting.line = line;
    } else if (line != meeting.line || (file != meeting.file && strcmp(file, meeting.file) != 0)) {
        report_sites(w, meeting, file, line);
    }
    meeting.slots[place] = slot;
    void *token = race_token(w, meeting);
    race_give(token);
    if (++meeting.arrived == expected) {
        race_take(token);
        return true;
    }
    self->state = state;
    self->file = file;
    self->line = line;
    wait(w);
    race_take(token);
    return false;
}

static void release(Rendezvous &meeting, int first, int count) {
    Worker &w = worker();
    race_give(race_token(w, meeting)); // what the last one wrote for the others
    meeting.round++;
    meeting.arrived = 0;
    for (int t = first; t < first + count; t++)
        if (w.fibers[t].get() != w.current) make_ready(w, w.fibers[t].get());
}

static void need_fibers() {
    if (host_thread->fiber) return;
    fprintf(stderr, "llmc: a kernel launched with launch_pointwise meets a barrier or reduction\n");
    _Exit(1);
}

bool host_warp_arrive(void *slot, const char *file, int line) {
    need_fibers();
    int t = host_thread->linear;
    return arrive(worker().warps[t / LANES], LANES, t % LANES, AT_WARP, slot, file, line);
}
void **host_warp_slots() { return worker().warps[host_thread->linear / LANES].slots; }
void host_warp_release() {
    int warp = host_thread->linear / LANES;
    release(worker().warps[warp], warp * LANES, LANES);
}

bool host_block_arrive(void *slot, const char *file, int line) {
    need_fibers();
    Worker &w = worker();
    return arrive(w.barrier, w.num_threads, host_thread->linear, AT_BLOCK, slot, file, line);
}
void **host_block_slots() { return worker().barrier.slots; }
void host_block_release() {
    Worker &w = worker();
    release(w.barrier, 0, w.num_threads);
}

void *host_shared(size_t bytes) {
    need_fibers();
    Worker &w = worker();
    int k = host_thread->shared_next++;
    if (k >= MAX_SHARED_ARRAYS) report("more than 32 shared arrays");
    if (k == w.shared_count) {
        w.shared_arrays[k] = take_shared(w, bytes);
        w.shared_sizes[k] = bytes;
        w.shared_count++;
    }
    if (w.shared_sizes[k] != bytes) report("threads declare different shared arrays");
    return w.shared_arrays[k];
}

void *host_shared_dynamic() {
    need_fibers();
    return worker().dynamic;
}
