// Streams and events. A task may run when those before it on its stream and the points of other streams that it waits for
// are done. Points only lie behind: so there is always a task that may run.
#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <vector>

#include "runtime.h"

namespace {

struct Point { // the first `number` tasks of the stream
    HostStream *stream;
    uint64_t number;
};

struct Task {
    void (*run)(void *work);
    void *work;
    std::vector<Point> after;
};

} // namespace

struct HostStream {
    bool blocking = true; // ordered against the default stream
    bool destroyed = false;
    std::deque<Task> tasks; // not begun
    uint64_t queued = 0, done = 0;
    unsigned pace = 1; // how often it is drawn
};

struct HostEvent {
    bool timed;
    Point point; // its last record; stream NULL: none
    std::shared_ptr<timespec> time;
};

bool host_eager = true;
void (*host_around_tasks)(bool begin);

typedef std::unique_lock<std::mutex> Lock;

static std::mutex mutex;                 // guards what follows, but is not held while a task runs
static std::condition_variable progress; // a task has ended
static bool busy;                        // a task is running
static bool around;                      // host_around_tasks has been told that tasks begin
static HostStream default_stream;
static std::vector<HostStream *> streams = {&default_stream}; // destroyed ones stay: events may name them
static bool random_order;                                     // else lazy
static uint64_t random_state;
static unsigned draws;
static thread_local bool in_task; // this thread runs a task

[[noreturn]] static void fail(const char *what) {
    fprintf(stderr, "llmc: %s\n", what);
    _Exit(1);
}

// ---- the order in which tasks run

static bool is_done(const Point &point) { return point.stream->done >= point.number; }

static const Point *first_open(const Task &task) {
    for (const Point &point : task.after)
        if (!is_done(point)) return &point;
    return nullptr;
}

// The stream whose next task brings the point nearer.
static HostStream *next_for(Point point) {
    while (const Point *open = first_open(point.stream->tasks.front())) point = *open;
    return point.stream;
}

static unsigned draw(unsigned below) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(random_state >> 33) % below;
}

// One of the tasks that may run, or NULL. Streams are fast and slow for a while each, so that one can leave the others far
// behind.
static HostStream *draw_next() {
    enum { SAME_PACE = 32, PACES = 3 };
    static const unsigned paces[PACES] = {0, 1, 8};
    unsigned total = 0;
    if (draws++ % SAME_PACE == 0)
        for (HostStream *s : streams) s->pace = paces[draw(PACES)];
    for (HostStream *s : streams)
        if (!s->tasks.empty() && !first_open(s->tasks.front())) total += s->pace;
    if (total == 0) return nullptr;
    unsigned at = draw(total);
    for (HostStream *s : streams) {
        if (s->tasks.empty() || first_open(s->tasks.front())) continue;
        if (at < s->pace) return s;
        at -= s->pace;
    }
    return nullptr;
}

static void run_next(Lock &lock, HostStream *stream) {
    Task task = std::move(stream->tasks.front());
    stream->tasks.pop_front();
    busy = true;
    in_task = true;
    if (host_around_tasks && !around) host_around_tasks(around = true);
    lock.unlock();
    task.run(task.work);
    lock.lock();
    in_task = false;
    busy = false;
    stream->done++;
    progress.notify_all();
}

// Before the host goes on.
static void end_tasks() {
    if (around && !busy) host_around_tasks(around = false);
}

static void reach(Lock &lock, Point point) {
    while (!is_done(point)) {
        if (in_task) fail("work on a stream waits for a stream");
        if (busy) {
            progress.wait(lock);
            continue;
        }
        HostStream *drawn = random_order ? draw_next() : nullptr;
        run_next(lock, drawn ? drawn : next_for(point));
    }
    end_tasks();
}

// ---- queueing

static Point end_of(HostStream *stream) { return {stream, stream->queued}; }

static void add_point(std::vector<Point> &after, const Point &point) {
    if (point.stream && !is_done(point)) after.push_back(point);
}

static HostStream *checked(HostStream *stream) {
    if (!stream) return &default_stream;
    if (stream->destroyed) fail("a stream is used that was destroyed");
    return stream;
}

static void append(Lock &lock, HostStream *stream, void (*run)(void *), void *work, Point point) {
    enum { MOST_AT_ONCE = 4 };
    Task task = {run, work, {}};
    add_point(task.after, point);
    if (stream == &default_stream) {
        for (HostStream *s : streams)
            if (s->blocking && s != stream) add_point(task.after, end_of(s));
    } else if (stream->blocking) {
        add_point(task.after, end_of(&default_stream));
    }
    stream->tasks.push_back(std::move(task));
    stream->queued++;
    for (unsigned n = random_order ? draw(MOST_AT_ONCE) : 0; n > 0 && !busy; n--)
        if (HostStream *drawn = draw_next()) run_next(lock, drawn);
    end_tasks();
}

void host_queue_later(HostStream *stream, void (*run)(void *), void *work) {
    Lock lock(mutex);
    append(lock, checked(stream), run, work, {});
}

void host_wait_stream(HostStream *stream) {
    Lock lock(mutex);
    stream = checked(stream);
    reach(lock, end_of(stream));
}

void host_wait_default_stream() {
    if (host_eager) return;
    host_queue(nullptr, [] {});
    host_wait_stream(nullptr);
}

void host_wait_all() {
    Lock lock(mutex);
    for (size_t i = 0; i < streams.size(); i++) reach(lock, end_of(streams[i]));
}

bool host_draws_late() {
    Lock lock(mutex);
    return random_order && draw(2);
}

// ---- modes

static void refuse(const char *text) {
    fprintf(stderr, "llmc: LLMC_HOST_STREAMS is '%s', expected eager, lazy or random:SEED with a number\n", text);
    _Exit(2);
}

__attribute__((constructor)) static void read_mode() {
    const char *text = getenv("LLMC_HOST_STREAMS"), *prefix = "random:";
    if (!text || strcmp(text, "eager") == 0) return;
    host_eager = false;
    if (strcmp(text, "lazy") == 0) return;
    if (strncmp(text, prefix, strlen(prefix)) != 0) refuse(text);
    const char *seed = text + strlen(prefix);
    if (!*seed || seed[strspn(seed, "0123456789")]) refuse(text);
    random_order = true;
    random_state = strtoull(seed, nullptr, 10) * 0x9E3779B97F4A7C15u;
}

// ---- the runtime's functions

static std::atomic<long> seconds_ahead;

void host_let_time_pass(long seconds) { seconds_ahead += seconds; }

static void stamp(timespec *time) {
    clock_gettime(CLOCK_MONOTONIC, time);
    time->tv_sec += seconds_ahead;
}

extern "C" {

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int) {
    HostStream *created = new HostStream;
    created->blocking = !(flags & cudaStreamNonBlocking);
    Lock lock(mutex);
    streams.push_back(created);
    *stream = created;
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    return cudaStreamCreateWithPriority(stream, flags, 0);
}
cudaError_t cudaStreamCreate(cudaStream_t *stream) { return cudaStreamCreateWithPriority(stream, 0, 0); }
cudaError_t cudaDeviceGetStreamPriorityRange(int *lowest, int *highest) {
    *lowest = 0;
    *highest = -5;
    return cudaSuccess;
}

// What the stream holds will still run.
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    if (!stream) return host_keep_error(cudaErrorInvalidResourceHandle);
    Lock lock(mutex);
    checked(stream)->destroyed = true;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    if (cudaError_t refused = host_refuse_in_capture()) return refused;
    if (host_skips(__func__)) return cudaSuccess;
    host_wait_stream(stream);
    return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
    if (cudaError_t refused = host_refuse_in_capture()) return refused;
    Lock lock(mutex);
    return is_done(end_of(checked(stream))) ? cudaSuccess : host_keep_error(cudaErrorNotReady);
}

// For the event's last record before this call.
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    if (cudaError_t refused = host_refuse_in_capture()) return refused;
    if (host_skips(__func__) || host_eager) return cudaSuccess;
    Lock lock(mutex);
    append(
        lock, checked(stream), [](void *) {}, nullptr, event->point);
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
    *event = new HostEvent{!(flags & cudaEventDisableTiming), {}, nullptr};
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *event) { return cudaEventCreateWithFlags(event, 0); }

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event; // a record that has not run yet keeps what it needs
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    if (cudaError_t refused = host_refuse_in_capture()) return refused;
    if (host_skips(__func__)) return cudaSuccess;
    std::shared_ptr<timespec> time = std::make_shared<timespec>();
    if (host_eager) {
        stamp(time.get());
        event->time = time;
        return cudaSuccess;
    }
    const auto run = [](void *work) {
        std::shared_ptr<timespec> *kept = (std::shared_ptr<timespec> *)work;
        stamp(kept->get());
        delete kept;
    };
    Lock lock(mutex);
    stream = checked(stream);
    event->time = time;
    event->point = {stream, stream->queued + 1};
    append(lock, stream, run, new std::shared_ptr<timespec>(time), {});
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    if (cudaError_t refused = host_refuse_in_capture()) return refused;
    if (host_skips(__func__)) return cudaSuccess;
    Lock lock(mutex);
    if (event->point.stream) reach(lock, event->point);
    return cudaSuccess;
}

// Nothing runs because somebody asks: a loop that asks until the event is reached would not end.
cudaError_t cudaEventQuery(cudaEvent_t event) {
    if (cudaError_t refused = host_refuse_in_capture()) return refused;
    Lock lock(mutex);
    const bool done = !event->point.stream || is_done(event->point);
    return done ? cudaSuccess : host_keep_error(cudaErrorNotReady);
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end) {
    Lock lock(mutex);
    for (const HostEvent *event : {start, end}) {
        if (!event->timed || !event->time) return host_keep_error(cudaErrorInvalidResourceHandle);
        if (event->point.stream && !is_done(event->point)) return host_keep_error(cudaErrorNotReady);
    }
    *milliseconds = (float)((double)(end->time->tv_sec - start->time->tv_sec) * 1e3 +
                            (double)(end->time->tv_nsec - start->time->tv_nsec) * 1e-6);
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void) {
    if (cudaError_t refused = host_refuse_in_capture()) return refused;
    if (host_skips(__func__)) return cudaSuccess;
    host_wait_all();
    return cudaSuccess;
}
}
