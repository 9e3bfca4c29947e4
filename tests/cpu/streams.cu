// CUDA's rules for streams, events and copies, each met once. `streams CASE` runs a case in the mode of LLMC_HOST_STREAMS and
// prints what was not as it should be; tests/cpu/test_streams.py runs them all.
#include "device/device.h"
#include "device/launch.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Marks in the order in which work ran: log[0] is their number. The CPU target's device memory is the host's, which is how
// the cases see what has run by now.
enum { LOG_ROOM = 256, N = 1000 };
static int *marks;
static int failures;
static enum { EAGER, LAZY, RANDOM } mode;

static __global__ void mark_kernel(int *log, int mark) {
    if (threadIdx.x == 0) log[++log[0]] = mark;
}

static void mark(int value, cudaStream_t stream) { launch(mark_kernel, 1, 32, 0, stream, marks, value); }

static void expect_at(bool right, const char *what, int line) {
    if (right) return;
    printf("line %d: expected %s\n", line, what);
    failures++;
}
#define expect(condition) expect_at(condition, #condition, __LINE__)
// what must not have happened yet when work is late, and has happened when it is eager
#define expect_late(condition)                                                                                         \
    expect_at(mode == RANDOM || (condition) == (mode == EAGER), "late: " #condition, __LINE__)

static bool has_run(int value) {
    for (int i = 1; i <= marks[0]; i++)
        if (marks[i] == value) return true;
    return false;
}

// Whether both have run, in this order.
static bool ran_in_order(int first, int second) {
    bool seen = false;
    for (int i = 1; i <= marks[0]; i++) {
        if (marks[i] == second) return seen;
        seen = seen || marks[i] == first;
    }
    return false;
}

static cudaStream_t new_stream(unsigned flags) {
    cudaStream_t stream;
    cuda_check(cudaStreamCreateWithFlags(&stream, flags));
    return stream;
}

static cudaEvent_t new_event() {
    cudaEvent_t event;
    cuda_check(cudaEventCreate(&event));
    return event;
}

static char *device_bytes(size_t bytes) {
    void *pointer;
    cuda_check(cudaMalloc(&pointer, bytes));
    return (char *)pointer;
}

static char *pinned_bytes(size_t bytes) {
    void *pointer;
    cuda_check(cudaMallocHost(&pointer, bytes));
    return (char *)pointer;
}

static void work_is_late() {
    cudaStream_t a = new_stream(0), b = new_stream(0);
    int value = 1;
    launch(mark_kernel, 1, 32, 0, a, marks, value);
    value = 2; // arguments are those of the call
    mark(3, b);
    expect_late(has_run(1) && has_run(3));
    expect_late(cudaStreamQuery(a) == cudaSuccess);
    cuda_check(cudaStreamSynchronize(a));
    expect(has_run(1) && !has_run(2) && cudaStreamQuery(a) == cudaSuccess);
    expect_late(has_run(3)); // nobody has waited for b
    cuda_check(cudaDeviceSynchronize());
    expect(has_run(3));
}

static void order_in_a_stream() {
    cudaStream_t a = new_stream(cudaStreamNonBlocking), b = new_stream(cudaStreamNonBlocking);
    for (int i = 1; i <= 40; i++) mark(i, i % 2 ? a : b);
    cuda_check(cudaDeviceSynchronize());
    for (int i = 1; i + 2 <= 40; i++) expect(ran_in_order(i, i + 2));
    for (int i = 1; i <= marks[0]; i++) fprintf(stderr, "%d ", marks[i]); // which interleaving
}

static void events_order() {
    cudaStream_t a = new_stream(cudaStreamNonBlocking), b = new_stream(cudaStreamNonBlocking);
    cudaEvent_t event = new_event();
    cuda_check(cudaStreamWaitEvent(b, event, 0)); // was never recorded: waits for nothing
    mark(1, a);
    cuda_check(cudaEventRecord(event, a));
    mark(2, a);
    cuda_check(cudaStreamWaitEvent(b, event, 0));
    mark(3, b);
    cuda_check(cudaEventRecord(event, a)); // the wait above is for the record before
    cuda_check(cudaStreamSynchronize(b));
    expect(ran_in_order(1, 3));
    expect_late(has_run(2));
    cuda_check(cudaEventSynchronize(event));
    expect(has_run(2));
}

static void events_answer() {
    cudaStream_t a = new_stream(0);
    cudaEvent_t start = new_event(), end = new_event(), untimed;
    float milliseconds = -1;
    cuda_check(cudaEventCreateWithFlags(&untimed, cudaEventDisableTiming));
    expect(cudaEventQuery(start) == cudaSuccess); // not recorded
    cuda_check(cudaEventSynchronize(start));
    expect(cudaEventElapsedTime(&milliseconds, start, end) == cudaErrorInvalidResourceHandle);
    cuda_check(cudaEventRecord(start, a));
    mark(1, a);
    cuda_check(cudaEventRecord(end, a));
    cuda_check(cudaEventRecord(untimed, a));
    expect_late(cudaEventQuery(end) == cudaSuccess);
    expect_late(cudaEventElapsedTime(&milliseconds, start, end) == cudaSuccess);
    cudaGetLastError();
    cuda_check(cudaEventSynchronize(end));
    expect(has_run(1) && cudaEventQuery(end) == cudaSuccess);
    expect(cudaEventElapsedTime(&milliseconds, start, end) == cudaSuccess && milliseconds >= 0);
    cuda_check(cudaDeviceSynchronize());
    expect(cudaEventElapsedTime(&milliseconds, start, untimed) == cudaErrorInvalidResourceHandle);
    expect(cudaGetLastError() == cudaErrorInvalidResourceHandle && cudaGetLastError() == cudaSuccess);
}

static void destroyed_while_pending() {
    cudaStream_t a = new_stream(cudaStreamNonBlocking), b = new_stream(cudaStreamNonBlocking);
    cudaEvent_t event = new_event();
    mark(1, a);
    cuda_check(cudaEventRecord(event, a));
    cuda_check(cudaStreamWaitEvent(b, event, 0));
    mark(2, b);
    cuda_check(cudaEventDestroy(event));
    cuda_check(cudaStreamDestroy(a));
    expect_late(has_run(1));
    cuda_check(cudaStreamSynchronize(b));
    expect(ran_in_order(1, 2));
    expect(cudaStreamDestroy(nullptr) == cudaErrorInvalidResourceHandle);
}

static void stream_used_after_its_end() {
    cudaStream_t a = new_stream(0);
    cuda_check(cudaStreamDestroy(a));
    if (mode != EAGER) mark(1, a);
    cuda_check(cudaStreamSynchronize(a));
}

static void default_stream() {
    cudaStream_t blocking = new_stream(0), other = new_stream(cudaStreamNonBlocking), later;
    cuda_check(cudaStreamCreateWithPriority(&later, 0, -1));
    mark(1, blocking);
    mark(2, other);
    mark(3, nullptr); // waits for blocking streams
    mark(4, later);   // which wait for it
    cuda_check(cudaStreamSynchronize(later));
    expect(ran_in_order(1, 3) && ran_in_order(3, 4));
    expect_late(has_run(2));
    cudaEvent_t event = new_event();
    mark(5, blocking);
    cuda_check(cudaEventRecord(event, nullptr)); // after all that blocking streams hold
    cuda_check(cudaEventSynchronize(event));
    expect(has_run(5));
    cuda_check(cudaDeviceSynchronize());
}

static void copies_that_wait() {
    cudaStream_t blocking = new_stream(0), other = new_stream(cudaStreamNonBlocking);
    char *device = device_bytes(N), host[N];
    mark(1, other);
    mark(2, blocking);
    cuda_check(cudaMemsetAsync(device, 7, N, blocking));
    expect_late(device[0] == 7);
    cuda_check(cudaMemcpy(host, device, N, cudaMemcpyDeviceToHost));
    expect(has_run(2) && host[0] == 7 && host[N - 1] == 7);
    expect_late(has_run(1));
    cuda_check(cudaMemset(device, 8, N)); // does not wait
    expect_late(device[0] == 8);
    memset(host, 9, N);
    cuda_check(cudaMemcpy(device, host, N, cudaMemcpyHostToDevice));
    memset(host, 10, N); // was left when the call returned
    mark(3, blocking);
    cuda_check(cudaStreamSynchronize(blocking));
    expect(device[0] == 9 && device[N - 1] == 9);
    cuda_check(cudaMemcpy(device + N / 2, device, N / 2, cudaMemcpyDeviceToDevice));
    cuda_check(cudaDeviceSynchronize());
}

static void pinned_memory_is_late() {
    cudaStream_t a = new_stream(cudaStreamNonBlocking);
    char *device = device_bytes(N), *from = pinned_bytes(N), *to = pinned_bytes(N);
    memset(from, 1, N);
    memset(to, 0, N);
    cuda_check(cudaMemcpyAsync(device, from, N, cudaMemcpyHostToDevice, a));
    cuda_check(cudaMemcpyAsync(to, device, N, cudaMemcpyDefault, a));
    expect_late(to[0] == 1 && to[N - 1] == 1);
    if (mode == LAZY) expect((unsigned char)to[0] == 0xFF && (unsigned char)to[N - 1] == 0xFF); // poisoned
    memset(from, 2, N);
    cuda_check(cudaStreamSynchronize(a));
    expect_late(to[0] == 1); // it read what was there when it ran
    expect(to[0] == 1 || to[0] == 2);
    // there and back through the same memory is no fault, so that it is not poisoned
    memset(from, 3, N);
    cuda_check(cudaMemcpyAsync(device, from, N, cudaMemcpyHostToDevice, a));
    cuda_check(cudaMemcpyAsync(from, device, N, cudaMemcpyDeviceToHost, a));
    cuda_check(cudaStreamSynchronize(a));
    expect(from[0] == 3);
}

static __global__ void first_byte_kernel(char *to, const char *from) {
    if (threadIdx.x == 0) *to = *from;
}

// Kernels read it before and after a copy that is queued between them.
static void mapped_memory() {
    cudaStream_t a = new_stream(cudaStreamNonBlocking);
    char *device = device_bytes(N), *seen = device_bytes(2), *mapped;
    expect(cudaHostAlloc((void **)&mapped, N, 0) == cudaErrorInvalidValue);
    cudaGetLastError();
    cuda_check(cudaHostAlloc((void **)&mapped, N, cudaHostAllocMapped));
    memset(mapped, 1, N);
    cuda_check(cudaMemsetAsync(device, 2, N, a));
    launch(first_byte_kernel, 1, 32, 0, a, seen, (const char *)mapped);
    cuda_check(cudaMemcpyAsync(mapped, device, N, cudaMemcpyDeviceToHost, a));
    expect_late(mapped[0] == 2);
    launch(first_byte_kernel, 1, 32, 0, a, seen + 1, (const char *)mapped);
    cuda_check(cudaStreamSynchronize(a));
    expect(seen[0] == 1 && seen[1] == 2 && mapped[N - 1] == 2);
    cuda_check(cudaFreeHost(mapped));
}

// What drivers do; with a seed it is drawn, as the documentation says no more than "might be synchronous".
static void pageable_memory_is_done_with() {
    cudaStream_t a = new_stream(cudaStreamNonBlocking);
    char *device = device_bytes(N), host[N];
    memset(host, 1, N);
    cuda_check(cudaMemcpyAsync(device, host, N, cudaMemcpyHostToDevice, a));
    expect_late(device[0] == 1);
    memset(host, 2, N);
    cuda_check(cudaMemcpyAsync(host, device, N, cudaMemcpyDeviceToHost, a));
    if (mode == RANDOM) {
        const unsigned char first = (unsigned char)host[0];
        fprintf(stderr, "%s ", first == 0xFF ? "late" : first == 1 ? "staged" : "read late");
        cuda_check(cudaStreamSynchronize(a));
    } else {
        expect(host[0] == 1 && host[N - 1] == 1);
    }
}

static void freeing() {
    cudaStream_t a = new_stream(cudaStreamNonBlocking);
    char *device = device_bytes(N), *pinned = pinned_bytes(N), here;
    mark(1, a);
    cuda_check(cudaFree(device)); // waits for the device
    expect(has_run(1));
    expect(cudaFree(pinned) == cudaErrorInvalidValue);
    expect(cudaFree(&here) == cudaErrorInvalidValue && cudaFreeHost(&here) == cudaErrorInvalidValue);
    cuda_check(cudaFree(nullptr));
    cuda_check(cudaFreeHost(nullptr));
    device = device_bytes(N);
    expect(cudaMemcpy(pinned, device, N, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
    expect(cudaMemcpyAsync(&here, pinned, 1, cudaMemcpyDeviceToDevice, a) == cudaErrorInvalidValue);
    cudaGetLastError();
    cuda_check(cudaFreeHost(pinned));
    cuda_check(cudaFree(device));
}

static void pinned_memory_freed_too_early() {
    cudaStream_t a = new_stream(cudaStreamNonBlocking);
    char *device = device_bytes(N), *pinned = pinned_bytes(N);
    cuda_check(cudaMemcpyAsync(device, pinned, N, cudaMemcpyHostToDevice, a));
    cuda_check(cudaFreeHost(pinned));
}

// ---- graphs

static int count_of(int value) {
    int count = 0;
    for (int i = 1; i <= marks[0]; i++) count += marks[i] == value;
    return count;
}

static cudaStream_t begin_capture() {
    cudaStream_t stream = new_stream(0);
    cuda_check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    return stream;
}

static void graphs_repeat() {
    cudaStream_t b = new_stream(cudaStreamNonBlocking), a = begin_capture();
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    char *device, *pinned;
    int value = 1;
    launch(mark_kernel, 1, 32, 0, a, marks, value);
    value = 2;  // arguments are those of the call
    mark(3, b); // no part of the graph
    cuda_check(cudaStreamEndCapture(a, &graph));
    cuda_check(cudaDeviceSynchronize());
    expect(!has_run(1) && has_run(3));
    cuda_check(cudaGraphInstantiateWithFlags(&exec, graph, 0));
    cuda_check(cudaGraphDestroy(graph));
    for (int i = 0; i < 3; i++) {
        cuda_check(cudaGraphLaunch(exec, a));
        mark(4, a);
    }
    cuda_check(cudaGraphExecDestroy(exec));
    expect_late(has_run(1));
    cuda_check(cudaStreamSynchronize(a));
    expect(count_of(1) == 3 && count_of(3) == 1 && count_of(4) == 3 && !has_run(2));
    for (int i = 2; i + 1 <= marks[0]; i += 2) expect(marks[i] == 1 && marks[i + 1] == 4);
    // copies read and write what lies there when they run
    device = device_bytes(N), pinned = pinned_bytes(N);
    memset(pinned, 5, N);
    cuda_check(cudaStreamBeginCapture(a, cudaStreamCaptureModeThreadLocal));
    cuda_check(cudaMemsetAsync(device, 6, N, a));
    cuda_check(cudaMemcpyAsync(device, pinned, N / 2, cudaMemcpyHostToDevice, a));
    cuda_check(cudaStreamEndCapture(a, &graph));
    expect((unsigned char)device[0] == 0xFF);
    cuda_check(cudaGraphInstantiateWithFlags(&exec, graph, 0));
    for (char byte = 7; byte < 9; byte++) {
        memset(pinned, byte, N);
        cuda_check(cudaGraphLaunch(exec, a));
        cuda_check(cudaStreamSynchronize(a));
        expect(device[0] == byte && device[N - 1] == 6);
    }
    cuda_check(cudaGraphExecDestroy(exec));
    cuda_check(cudaGraphDestroy(graph));
}

static cudaEvent_t some_event;
static char *some_bytes;
static void *none;
static cudaError_t answer;
static void (*const REFUSED[])(cudaStream_t) = {
    [](cudaStream_t s) { answer = cudaStreamSynchronize(s); },
    [](cudaStream_t s) { answer = cudaStreamQuery(s); },
    [](cudaStream_t s) { answer = cudaStreamWaitEvent(s, some_event, 0); },
    [](cudaStream_t s) { answer = cudaEventRecord(some_event, s); },
    [](cudaStream_t) { answer = cudaEventSynchronize(some_event); },
    [](cudaStream_t) { answer = cudaEventQuery(some_event); },
    [](cudaStream_t) { answer = cudaDeviceSynchronize(); },
    [](cudaStream_t) { answer = cudaMalloc(&none, 1); },
    [](cudaStream_t) { answer = cudaMallocHost(&none, 1); },
    [](cudaStream_t) { answer = cudaFree(some_bytes); },
    [](cudaStream_t) { answer = cudaFreeHost(some_bytes); },
    [](cudaStream_t) { answer = cudaMemcpy(some_bytes, some_bytes + 1, 1, cudaMemcpyDeviceToDevice); },
    [](cudaStream_t s) { answer = cudaMemcpyAsync(some_bytes, &none, 1, cudaMemcpyHostToDevice, s); },
    [](cudaStream_t s) { answer = cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal); },
};

static void captures_refuse() {
    some_event = new_event();
    some_bytes = device_bytes(N);
    for (const auto &call : REFUSED) {
        cudaStream_t a = begin_capture();
        cudaGraph_t graph;
        mark(1, a);
        call(a);
        if (answer != cudaErrorStreamCaptureUnsupported) printf("call %d is not refused\n", (int)(&call - REFUSED));
        expect(answer == cudaErrorStreamCaptureUnsupported);
        expect(cudaStreamEndCapture(a, &graph) == cudaErrorStreamCaptureInvalidated && !graph);
    }
    cudaStream_t a = new_stream(0);
    cudaGraph_t graph;
    expect(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeThreadLocal) == cudaErrorStreamCaptureUnsupported);
    expect(cudaStreamEndCapture(a, &graph) == cudaErrorStreamCaptureUnmatched);
    cudaGetLastError();
    mark(2, a);
    cuda_check(cudaStreamSynchronize(a));
    expect(has_run(2) && !has_run(1));
}

static void default_stream_in_a_capture() {
    begin_capture();
    mark(1, nullptr);
}

// ---- threads

enum { ROUNDS = 20 };
static cudaEvent_t handed_over[ROUNDS];
static int rounds, *done;

static __global__ void done_kernel(int *flag) {
    if (threadIdx.x == 0) *flag = 1;
}

static void *wait_for_each(void *) {
    for (int i = 0; i < ROUNDS; i++) {
        while (__atomic_load_n(&rounds, __ATOMIC_ACQUIRE) <= i) {
        }
        cuda_check(cudaEventSynchronize(handed_over[i]));
        expect(done[i] == 1);
    }
    return nullptr;
}

static void threads() {
    cudaStream_t a = new_stream(0), b = new_stream(0);
    pthread_t thread;
    done = (int *)device_bytes(ROUNDS * sizeof(int));
    pthread_create(&thread, nullptr, wait_for_each, nullptr);
    for (int i = 0; i < ROUNDS; i++) {
        handed_over[i] = new_event();
        launch(done_kernel, 1, 32, 0, i % 3 ? a : b, done + i);
        cuda_check(cudaEventRecord(handed_over[i], i % 3 ? a : b));
        __atomic_store_n(&rounds, i + 1, __ATOMIC_RELEASE);
        if (i % 7 == 0) cuda_check(cudaStreamSynchronize(a));
    }
    pthread_join(thread, nullptr);
}

static const struct {
    const char *name;
    void (*run)();
} CASES[] = {
    {"work_is_late", work_is_late},
    {"order_in_a_stream", order_in_a_stream},
    {"events_order", events_order},
    {"events_answer", events_answer},
    {"destroyed_while_pending", destroyed_while_pending},
    {"stream_used_after_its_end", stream_used_after_its_end},
    {"default_stream", default_stream},
    {"copies_that_wait", copies_that_wait},
    {"pinned_memory_is_late", pinned_memory_is_late},
    {"mapped_memory", mapped_memory},
    {"pageable_memory_is_done_with", pageable_memory_is_done_with},
    {"freeing", freeing},
    {"pinned_memory_freed_too_early", pinned_memory_freed_too_early},
    {"graphs_repeat", graphs_repeat},
    {"captures_refuse", captures_refuse},
    {"default_stream_in_a_capture", default_stream_in_a_capture},
    {"threads", threads},
};

int main(int, char **arguments) {
    const char *text = getenv("LLMC_HOST_STREAMS");
    mode = !text || strcmp(text, "eager") == 0 ? EAGER : strcmp(text, "lazy") == 0 ? LAZY : RANDOM;
    marks = (int *)device_bytes(LOG_ROOM * sizeof(int));
    memset(marks, 0, LOG_ROOM * sizeof(int));
    for (const auto &c : CASES)
        if (strcmp(c.name, arguments[1]) == 0) c.run();
    return failures > 0;
}
