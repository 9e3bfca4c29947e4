#include "guard.h"

#include <execinfo.h>
#include <map>
#include <mutex>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpu/streams.h"
#include "standins.h"

static const size_t PAGE = (size_t)sysconf(_SC_PAGESIZE);

static std::mutex lock;
static std::map<uintptr_t, size_t> guarded; // address: bytes, in whole pages
static int opened;

bool guard_is_on() {
    static const bool on = standin_is_set("LLMC_STANDIN_GUARD");
    return on;
}

static size_t in_pages(size_t bytes) { return (bytes + PAGE - 1) / PAGE * PAGE; }

size_t guard_room(size_t bytes) { return in_pages(bytes) + PAGE; }

void *guard_begin(void *allocated) { return (void *)in_pages((size_t)allocated); }

static void protect(uintptr_t begin, size_t bytes, int how) {
    if (bytes && mprotect((void *)begin, bytes, how) != 0) perror("llmc: mprotect"), _exit(1);
}

void guard_add(void *begin, size_t bytes) {
    if (host_eager) {
        fprintf(stderr, "llmc: LLMC_STANDIN_GUARD wants LLMC_HOST_STREAMS=lazy or random:SEED\n");
        exit(2);
    }
    std::lock_guard<std::mutex> hold(lock);
    guarded[(uintptr_t)begin] = in_pages(bytes);
    if (!opened) protect((uintptr_t)begin, in_pages(bytes), PROT_NONE);
}

void guard_remove(void *begin) {
    std::lock_guard<std::mutex> hold(lock);
    protect((uintptr_t)begin, guarded[(uintptr_t)begin], PROT_READ | PROT_WRITE);
    guarded.erase((uintptr_t)begin);
}

void guard_open() {
    if (!guard_is_on()) return;
    std::lock_guard<std::mutex> hold(lock);
    if (opened++) return;
    for (const auto &[begin, bytes] : guarded) protect(begin, bytes, PROT_READ | PROT_WRITE);
}

void guard_close() {
    if (!guard_is_on()) return;
    std::lock_guard<std::mutex> hold(lock);
    if (--opened) return;
    for (const auto &[begin, bytes] : guarded) protect(begin, bytes, PROT_NONE);
}

// The lists are not locked: the program ends here.
static void tell_access(int, siginfo_t *info, void *) {
    const uintptr_t at = (uintptr_t)info->si_addr;
    auto after = guarded.upper_bound(at);
    const bool ours = after != guarded.begin() && (--after, at - after->first < after->second);
    void *frames[32];
    fprintf(stderr, ours ? "llmc: the host touches device memory at %p\n" : "llmc: invalid address %p\n", (void *)at);
    backtrace_symbols_fd(frames, backtrace(frames, 32), STDERR_FILENO);
    _exit(1);
}

static void around_tasks(bool begin) {
    if (begin)
        guard_open();
    else
        guard_close();
}

__attribute__((constructor)) static void start() {
    if (!guard_is_on()) return;
    struct sigaction action = {};
    action.sa_sigaction = tell_access;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, nullptr);
    host_around_tasks = around_tasks;
}
