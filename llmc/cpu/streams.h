// Streams of the CPU target. Whatever executes on a stream (kernels, matrix products, copies, collectives) is queued here,
// and the environment variable LLMC_HOST_STREAMS says when it runs:
//
//   eager          at once, in the call that queues it (default)
//   lazy           when somebody waits for it, and then nothing that need not
//   random:SEED    at moments, and with an interleaving of the streams, that the seed draws
//
// The last two are as asynchronous as CUDA allows, so that a missing synchronisation changes results.
#ifndef LLMC_CPU_STREAMS_H
#define LLMC_CPU_STREAMS_H

#include <stdint.h>

struct HostStream; // *cudaStream_t

extern bool host_eager; // LLMC_HOST_STREAMS=eager

// For a stand-in that hides device memory from the host: called before tasks run, and after them before the host goes on,
// unless streams are eager. May be NULL.
extern void (*host_around_tasks)(bool begin);

// For a stand-in whose work would take time: events that are recorded from here on have a time so many seconds later.
void host_let_time_pass(long seconds);

// Queues run(work), which also frees `work`; NULL is the default stream.
void host_queue_later(HostStream *stream, void (*run)(void *work), void *work);

extern bool host_captures; // some stream is captured (graph.cpp)

// Whether it is this one. The default stream ends the program: it would wait for the captured one.
bool host_is_the_captured(HostStream *stream);
inline bool host_is_captured(HostStream *stream) {
    return __atomic_load_n(&host_captures, __ATOMIC_RELAXED) && host_is_the_captured(stream);
}

// Keeps what the stream would run, for its graph; drop(work) frees it.
void host_keep_for_graph(void (*run)(void *work), void (*drop)(void *work), void *work);

// Queues work(), with a copy of what it captured. One task runs at a time, in whatever thread waits for it; it must not
// itself call anything that queues or waits.
template <typename Work> inline void host_queue(HostStream *stream, Work work) {
    if (host_is_captured(stream))
        return host_keep_for_graph([](void *copy) { (*(Work *)copy)(); }, [](void *copy) { delete (Work *)copy; },
                                   new Work(work));
    if (host_eager) return work();
    const auto run = [](void *copy) {
        (*(Work *)copy)();
        delete (Work *)copy;
    };
    host_queue_later(stream, run, new Work(work));
}

#endif
