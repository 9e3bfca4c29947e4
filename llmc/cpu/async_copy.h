// cp.async on the CPU: 16-byte copies to shared memory that may arrive late. In the natural order of threads they are done at
// once. With a seed set they are done as late as allowed: the destination is poisoned at the call, and the bytes arrive when
// the thread waits for their group, so that a missing commit or wait shows.
#ifndef LLMC_CPU_ASYNC_COPY_H
#define LLMC_CPU_ASYNC_COPY_H

#include <string.h>
#include <vector>

#include "alignment.h"
#include "fiber.h"

struct HostCopy {
    void *to;
    const void *from; // NULL: zeros
};

// Copies of one kernel thread that have not arrived. A thread waits for all before it ends.
struct HostCopies {
    std::vector<HostCopy> waiting;
    std::vector<size_t> groups; // how many of `waiting` belong to this committed group and those before it
};
HostCopies &host_copies(); // of the running thread

inline void host_copy_now(HostCopy copy) {
    if (copy.from)
        memcpy(copy.to, copy.from, 16);
    else
        memset(copy.to, 0, 16);
}

inline void host_copy_async(void *shared, const void *global, bool valid) {
    host_check_aligned(shared, 16, "cp.async writes");
    host_check_aligned(global, 16, "cp.async reads");
    const HostCopy copy = {shared, valid ? global : nullptr};
    if (!host_seed()) return host_copy_now(copy);
    memset(shared, 0xFF, 16);
    host_copies().waiting.push_back(copy);
}

inline void host_copy_commit() {
    if (host_seed()) host_copies().groups.push_back(host_copies().waiting.size());
}

inline void host_copy_wait(size_t groups_left) {
    if (!host_seed()) return;
    HostCopies &copies = host_copies();
    if (copies.groups.size() <= groups_left) return;
    const size_t done_groups = copies.groups.size() - groups_left, done = copies.groups[done_groups - 1];
    for (size_t i = 0; i < done; i++) host_copy_now(copies.waiting[i]);
    copies.waiting.erase(copies.waiting.begin(), copies.waiting.begin() + (long)done);
    copies.groups.erase(copies.groups.begin(), copies.groups.begin() + (long)done_groups);
    for (size_t &end : copies.groups) end -= done;
}

#endif
