// The fibers behind fiber.h. A block's threads are fibers that a worker keeps from block to block. A fiber runs until it
// must wait at a rendezvous, then jumps straight to the next one that is ready. The thread of a block of one needs none.
#include <boost/context/detail/fcontext.hpp>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "fiber.h"
#include "races.h"
#include "worker.h"

#if CHECKED_BUILD
#include <sanitizer/common_interface_defs.h>
#endif

namespace context = boost::context::detail;

__thread HostBlock *host_block;
__thread HostThread *host_thread;

namespace fibers {

enum { STACK_BYTES = CHECKED_BUILD ? 512 * 1024 : 128 * 1024 };
// Stacks that begin at the same offset of a page would share the same few cache sets.
enum { STACK_STAGGER = 64 * 9, STAGGER_STEPS = 56 };
enum { GUARD_PAGE = 4096 };

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

static uint64_t next_random(uint64_t &state) { // xorshift64*
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 2685821657736338717ull;
}

static void make_ready(Worker &w, HostFiber *fiber) {
    fiber->state = READY;
    w.ready[(w.ready_first + w.ready_count++) % MAX_THREADS] = fiber;
}

static HostFiber *take_ready(Worker &w) {
    HostFiber *&first = w.ready[w.ready_first % MAX_THREADS];
    if (w.random) std::swap(first, w.ready[(w.ready_first + next_random(w.random) % w.ready_count) % MAX_THREADS]);
    w.ready_first++;
    w.ready_count--;
    return first;
}

// ---- switching

// Ends a switch on the side that was switched to.
static void arrive_from(HostFiber *self, context::transfer_t transfer) {
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

static void switch_to(Worker &w, HostFiber *to) {
    HostFiber *from = w.current;
    if (from == to) return;
    w.current = to;
    host_thread = &to->thread;
#if CHECKED_BUILD
    __sanitizer_start_switch_fiber(&from->fake_stack, to->stack, to->stack_bytes);
#endif
    race_switch(to);
    arrive_from(from, context::jump_fcontext(to->context, from));
}

static void wait(Worker &w) {
    if (w.ready_count == 0) report_divergence(w);
    switch_to(w, take_ready(w));
}

static void fiber_main(context::transfer_t transfer) {
    Worker &w = worker();
    HostFiber *self = w.current;
    arrive_from(self, transfer);
    for (;;) { // once a block
        race_begin_thread();
        w.kernel->call(w.kernel->self);
        self->state = FINISHED;
        race_end_thread();
        if (++w.finished == w.num_threads)
            switch_to(w, &w.outside);
        else
            wait(w);
    }
}

// ---- stacks

void *map_memory(size_t bytes, const char *what) {
    void *memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory != MAP_FAILED) return memory;
    fprintf(stderr, "llmc: no memory for %s (%zu KiB)\n", what, bytes / 1024);
    _Exit(1);
}

static void give_stack(HostFiber &fiber) {
    fiber.stack = (char *)map_memory(STACK_BYTES, "the stack of a kernel thread");
    fiber.stack_bytes = STACK_BYTES;
    if (CHECKED_BUILD) mprotect(fiber.stack, GUARD_PAGE, PROT_NONE); // too deep is a fault, not another's data
    char *top = fiber.stack + STACK_BYTES - fiber.thread.linear % STAGGER_STEPS * STACK_STAGGER;
    fiber.context = context::make_fcontext(top, (size_t)(top - fiber.stack), fiber_main);
    race_create(fiber);
}

void add_fibers(Worker &w, int count) {
    for (int t = RACE_BUILD ? 0 : (int)w.fibers.size(); t < count; t++) {
        if (t == (int)w.fibers.size()) w.fibers.push_back(std::make_unique<HostFiber>());
        w.fibers[t]->thread.linear = t;
        if (!w.fibers[t]->stack) give_stack(*w.fibers[t]);
    }
}

void drop_stacks(Worker &w) {
    for (auto &fiber : w.fibers) {
        if (!fiber->stack) continue;
        munmap(fiber->stack, STACK_BYTES);
        fiber->stack = nullptr;
        race_destroy(*fiber);
    }
}

Worker::~Worker() {
    drop_stacks(*this);
    drop_shared(*this);
}

// ---- a block

static void start_threads(Worker &w) {
    const dim3 size = w.block.block_dim;
    w.ready_first = w.ready_count = 0;
    w.finished = 0;
    w.barrier.arrived = 0;
    for (int warp = 0; warp < w.num_threads / LANES; warp++) w.warps[warp].arrived = 0;
    for (int t = 0; t < w.num_threads; t++) {
        HostThread &thread = w.fibers[t]->thread;
        thread.index = {t % size.x, t / size.x % size.y, t / size.x / size.y};
        thread.shared_next = 0;
        w.fibers[t]->file = nullptr;
        thread.fiber = w.exchange ? w.fibers[t].get() : nullptr;
        make_ready(w, w.fibers[t].get());
    }
}

void run_fibers(Worker &w) {
    start_threads(w);
    w.current = &w.outside;
    switch_to(w, take_ready(w));
}

void run_alone(Worker &w) {
    w.current = &w.outside;
    w.outside.thread = {};
    w.outside.thread.fiber = w.exchange ? &w.outside : nullptr;
    host_thread = &w.outside.thread;
    w.kernel->call(w.kernel->self);
}

} // namespace fibers

// ---- what running threads call

using namespace fibers;

static bool arrive(Rendezvous &meeting, int expected, int place, State state, void *slot, const char *file, int line) {
    Worker &w = worker();
    HostFiber *self = w.current;
    meeting.slots[place] = slot;
    if (self == &w.outside) return true; // the block's only thread
    if (meeting.arrived == 0) {
        meeting.file = file;
        meeting.line = line;
    } else if (line != meeting.line || (file != meeting.file && strcmp(file, meeting.file) != 0)) {
        report_sites(w, meeting, file, line);
    }
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
    if (w.current == &w.outside) return;
    race_give(race_token(w, meeting)); // what the last one wrote for the others
    meeting.round++;
    meeting.arrived = 0;
    for (int t = first; t < first + count; t++)
        if (w.fibers[t].get() != w.current) make_ready(w, w.fibers[t].get());
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
