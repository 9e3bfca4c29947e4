// Graphs. While a stream is captured, what is queued on it is kept and does not run; each launch queues it again, with
// the arguments that it was given then.
//
// What CUDA refuses a thread that captures is refused: waits, allocation, the default stream, copies of pageable
// memory. Refused are also, though CUDA knows them, events, and more than one capture at a time.
#include <memory>
#include <mutex>
#include <stdio.h>
#include <stdlib.h>
#include <vector>

#include "runtime.h"

namespace {

struct Kept {
    void (*run)(void *work);
    std::shared_ptr<void> work;
};

} // namespace

struct HostGraph {
    std::vector<Kept> kept;
};

struct HostGraphExec {
    std::vector<Kept> kept;
};

bool host_captures;

static std::mutex mutex;            // guards what follows
static HostStream *captured;        // NULL: none
static HostGraph *under_way;        // of that stream
static bool invalid;                // it was refused something
static thread_local bool capturing; // this thread captures

cudaError_t host_refuse_in_capture() {
    if (!capturing) return cudaSuccess;
    std::lock_guard<std::mutex> lock(mutex);
    invalid = true;
    return host_keep_error(cudaErrorStreamCaptureUnsupported);
}

bool host_is_the_captured(HostStream *stream) {
    std::lock_guard<std::mutex> lock(mutex);
    if (captured && !stream) {
        fprintf(stderr, "llmc: the default stream is used while a stream is captured\n");
        _Exit(1);
    }
    return captured && captured == stream;
}

void host_keep_for_graph(void (*run)(void *), void (*drop)(void *), void *work) {
    std::lock_guard<std::mutex> lock(mutex);
    under_way->kept.push_back({run, std::shared_ptr<void>(work, drop)});
}

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    if (cudaError_t refused = host_refuse_in_capture()) return refused;
    std::lock_guard<std::mutex> lock(mutex);
    if (captured || !stream) return host_keep_error(cudaErrorStreamCaptureUnsupported);
    captured = stream;
    under_way = new HostGraph;
    invalid = false;
    capturing = true;
    __atomic_store_n(&host_captures, true, __ATOMIC_RELAXED);
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    std::lock_guard<std::mutex> lock(mutex);
    if (!capturing || captured != stream) return host_keep_error(cudaErrorStreamCaptureUnmatched);
    captured = nullptr;
    capturing = false;
    __atomic_store_n(&host_captures, false, __ATOMIC_RELAXED);
    *graph = under_way;
    if (!invalid) return cudaSuccess;
    delete under_way;
    *graph = nullptr;
    return host_keep_error(cudaErrorStreamCaptureInvalidated);
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long) {
    *exec = new HostGraphExec{graph->kept};
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}

// Work that was launched and has not run yet keeps what it needs.
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    delete exec;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    if (cudaError_t refused = host_refuse_in_capture()) return refused;
    for (const Kept &kept : exec->kept) host_queue(stream, [kept] { kept.run(kept.work.get()); });
    return cudaSuccess;
}
}
