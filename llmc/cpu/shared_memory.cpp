// Shared memory of the block that a worker runs: arrays between guards that AddressSanitizer knows, born poisoned.
#include <algorithm>
#include <string.h>
#include <sys/mman.h>

#include "races.h"
#include "worker.h"

#if CHECKED_BUILD
#include <sanitizer/asan_interface.h>
#endif

namespace fibers {

enum { SHARED_ALIGN = 128, SHARED_GUARD = 128 };
enum { SHARED_ROOM = (MAX_SHARED_ARRAYS + 1) * (SHARED_ALIGN + SHARED_GUARD) }; // for what lies between arrays

// NaN in natural order. A maximum may swallow NaN, so other orders find huge numbers of either sign (3.4e38, -1.7e38 in
// both types): a result that uses them moves with the seed.
static int shared_poison() { return !host_seed() ? 0xFF : host_seed() % 2 ? 0x7F : 0xFE; }

static void *take_shared(Worker &w, size_t bytes) {
    size_t rounded = (bytes + SHARED_ALIGN - 1) / SHARED_ALIGN * SHARED_ALIGN;
    if (w.shared_used + rounded + SHARED_GUARD > w.shared_bytes) report(w, "more than 99 KiB of shared memory");
    char *start = w.shared + w.shared_used;
    w.shared_used += rounded + SHARED_GUARD;
#if CHECKED_BUILD
    ASAN_UNPOISON_MEMORY_REGION(start, bytes);
#endif
    if (!RACE_BUILD) memset(start, shared_poison(), bytes);
    return start;
}

void reset_shared(Worker &w, size_t dynamic_bytes) {
    // a block of one thread, which stands for a warp of a GPU, may have more than a GPU's block
    const size_t bytes = SHARED_ROOM + std::max(dynamic_bytes, (size_t)SHARED_LIMIT);
    if (bytes > w.shared_bytes) {
        drop_shared(w);
        w.shared = (char *)map_memory(bytes, "shared memory");
        w.shared_bytes = bytes;
    }
#if CHECKED_BUILD
    ASAN_POISON_MEMORY_REGION(w.shared, w.shared_bytes);
#endif
#if RACE_BUILD // at once, before there are threads that it could race
    memset(w.shared, shared_poison(), w.shared_bytes);
    race_end_thread(); // see race_start_block
#endif
    w.shared_used = SHARED_GUARD;
    w.shared_count = 0;
    w.dynamic = take_shared(w, dynamic_bytes);
}

void drop_shared(Worker &w) {
    if (w.shared) munmap(w.shared, w.shared_bytes);
    w.shared = nullptr;
    w.shared_bytes = 0;
}

} // namespace fibers

using namespace fibers;

void *host_shared(size_t bytes) {
    need_fibers();
    Worker &w = worker();
    int k = host_thread->shared_next++;
    if (k >= MAX_SHARED_ARRAYS) report(w, "more than 32 shared arrays");
    if (k == w.shared_count) {
        w.shared_arrays[k] = take_shared(w, bytes);
        w.shared_sizes[k] = bytes;
        w.shared_count++;
    }
    if (w.shared_sizes[k] != bytes) report(w, "threads declare different shared arrays");
    return w.shared_arrays[k];
}

void *host_shared_dynamic() {
    need_fibers();
    return worker().dynamic;
}
