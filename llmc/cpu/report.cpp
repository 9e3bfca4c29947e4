// What is said of kernels whose threads do not meet.
#include <stdio.h>
#include <stdlib.h>

#include "alignment.h"
#include "worker.h"

#if CHECKED_BUILD
#include <sanitizer/common_interface_defs.h>
#endif

namespace fibers {

// The kernel's name as written at the launch, without the parentheses that keep template commas together.
static void print_place(const Worker &w) {
    fprintf(stderr, "llmc: kernel %s, block (%u,%u,%u): ", w.kernel->name, w.block.index.x, w.block.index.y,
            w.block.index.z);
}

static void print_thread(const HostFiber &fiber) {
    fprintf(stderr, "thread (%u,%u,%u) ", fiber.thread.index.x, fiber.thread.index.y, fiber.thread.index.z);
    if (fiber.state == FINISHED)
        fprintf(stderr, "has returned");
    else
        fprintf(stderr, "waits at %s:%d", fiber.file, fiber.line);
}

[[noreturn]] static void stop() {
    fprintf(stderr, "\n");
    fflush(nullptr);
    _Exit(1);
}

// Names one thread that waits and one that is not there.
void report_divergence(const Worker &w) {
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

void report_sites(const Worker &w, const Rendezvous &meeting, const char *file, int line) {
    print_place(w);
    fprintf(stderr, "threads meet at different barriers: thread (%u,%u,%u) at %s:%d, others at %s:%d",
            host_thread->index.x, host_thread->index.y, host_thread->index.z, file, line, meeting.file, meeting.line);
    stop();
}

void report(const Worker &w, const char *message) {
    print_place(w);
    fprintf(stderr, "%s", message);
    stop();
}

void report_meeting() {
    fprintf(stderr, "llmc: a kernel launched with launch_pointwise meets a barrier or reduction\n");
    _Exit(1);
}

} // namespace fibers

void host_report(const char *message) {
    const uint3 block = host_block->index;
    fprintf(stderr, "llmc: kernel %s, block (%u,%u,%u): %s", host_block->kernel, block.x, block.y, block.z, message);
    fibers::stop();
}

void host_report_misaligned(const void *address, size_t bytes, const char *access) {
    const uint3 block = host_block->index, thread = host_thread->index;
    fprintf(stderr, "llmc: kernel %s, block (%u,%u,%u): thread (%u,%u,%u): %s at %p, which is not a multiple of %zu",
            host_block->kernel, block.x, block.y, block.z, thread.x, thread.y, thread.z, access, address, bytes);
#if CHECKED_BUILD
    fprintf(stderr, "\n");
    __sanitizer_print_stack_trace();
#endif
    fibers::stop();
}
