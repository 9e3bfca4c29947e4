// What ThreadSanitizer is told (SANITIZE=thread); in other builds nothing.
//
// Every thread of every block is a thread of its own to it, ordered against others by nothing but rendezvous and launches:
// it then finds two threads, of one block or of two, that touch the same memory unordered, whatever order they really ran in.
#ifndef LLMC_CPU_RACES_H
#define LLMC_CPU_RACES_H

#include "worker.h"

#if RACE_BUILD
#include <sanitizer/tsan_interface.h>
#endif

#pragma GCC visibility push(hidden)
namespace fibers {

#if RACE_BUILD

// What each rendezvous orders is noted at one of two addresses in turn: a thread that goes on late must not seem to be
// ordered after what others do on their way to the next round.
struct RaceTokens {
    uint64_t barrier[2], warps[MAX_WARPS][2];
};
extern __thread RaceTokens *race_tokens; // fresh for each block
extern __thread bool race_blocks_ordered;
extern uint64_t race_finished; // orders what follows a launch after its blocks

inline void *race_token(Worker &w, Rendezvous &meeting) {
    if (&meeting == &w.barrier) return &race_tokens->barrier[meeting.round % 2];
    return &race_tokens->warps[&meeting - w.warps][meeting.round % 2];
}
inline void race_give(void *token) { __tsan_release(token); }
inline void race_take(void *token) { __tsan_acquire(token); }

inline void race_begin_thread() {
    if (race_blocks_ordered) race_take(&race_finished);
}
inline void race_end_thread() { race_give(&race_finished); }
inline void race_switch(HostFiber *to) { __tsan_switch_to_fiber(to->race_fiber, __tsan_switch_to_fiber_no_sync); }
inline void race_create(HostFiber &fiber) { fiber.race_fiber = __tsan_create_fiber(0); }
inline void race_destroy(HostFiber &fiber) { __tsan_destroy_fiber(fiber.race_fiber); }
void race_start_block(Worker &w);
void race_start_launch();
inline void race_finish_launch() { race_take(&race_finished); }
#else
inline void *race_token(Worker &, Rendezvous &) { return nullptr; }
inline void race_give(void *) {}
inline void race_take(void *) {}
inline void race_begin_thread() {}
inline void race_end_thread() {}
inline void race_switch(HostFiber *) {}
inline void race_create(HostFiber &) {}
inline void race_destroy(HostFiber &) {}
inline void race_start_block(Worker &) {}
inline void race_start_launch() {}
inline void race_finish_launch() {}
#endif

} // namespace fibers
#pragma GCC visibility pop

#endif
