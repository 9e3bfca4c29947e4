// Spans of time. On a stream they are pairs of events, read when the trace is asked for; a NULL stream, which is what every
// stream of the cpu target is, has its work done when a call returns, so that the clock tells.
#include "device/trace.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "device/device.h"

enum { NAME_SIZE = 64 };

typedef struct {
    char name[NAME_SIZE];
    int index;
    TraceLane lane;
    double began, ended;          // microseconds since `anchor`; of events once they are read
    cudaEvent_t begin_at, end_at; // NULL: none
    atomic_bool complete;
} Span;

static struct {
    atomic_bool open;
    Span *spans;
    int capacity;
    atomic_int count;       // that were asked for, also beyond the capacity
    Span *running[LANES];   // NULL: none
    cudaEvent_t reference;  // recorded at `anchor`
    struct timespec anchor; // of the wall clock, by which the ranks of a machine line up
    struct timespec start;  // the same moment of the clock that never jumps
} trace;

static double since_anchor(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return 1e6 * (double)(now.tv_sec - trace.start.tv_sec) + 1e-3 * (double)(now.tv_nsec - trace.start.tv_nsec);
}

int trace_open(int capacity, Error *err) {
    trace_close();
    trace.spans = calloc((size_t)capacity, sizeof *trace.spans);
    if (!trace.spans) return fail_fault(err, "no memory for a trace of %d spans", capacity);
    trace.capacity = capacity;
    atomic_store(&trace.count, 0);
    memset(trace.running, 0, sizeof trace.running);
    cuda_check(cudaEventCreate(&trace.reference));
    cuda_check(cudaEventRecord(trace.reference, NULL));
    cuda_check(cudaEventSynchronize(trace.reference));
    clock_gettime(CLOCK_REALTIME, &trace.anchor);
    clock_gettime(CLOCK_MONOTONIC, &trace.start);
    atomic_store(&trace.open, true);
    return 0;
}

static cudaEvent_t record(cudaStream_t stream) {
    cudaEvent_t event;
    if (!stream) return NULL;
    cuda_check(cudaEventCreate(&event));
    cuda_check(cudaEventRecord(event, stream));
    return event;
}

void trace_begin(TraceLane lane, const char *name, int index, cudaStream_t stream) {
    if (!atomic_load(&trace.open)) return;
    const int at = atomic_fetch_add(&trace.count, 1);
    trace.running[lane] = NULL;
    if (at >= trace.capacity) return;
    Span *span = &trace.spans[at];
    snprintf(span->name, sizeof span->name, "%s", name);
    span->index = index;
    span->lane = lane;
    span->begin_at = record(stream);
    span->began = since_anchor();
    trace.running[lane] = span;
}

void trace_end(TraceLane lane, cudaStream_t stream) {
    if (!atomic_load(&trace.open)) return;
    Span *span = trace.running[lane];
    if (!span) return;
    span->end_at = record(stream);
    span->ended = since_anchor();
    trace.running[lane] = NULL;
    atomic_store(&span->complete, true);
}

// ---- as text

static double read_event(cudaEvent_t event, double otherwise) {
    float milliseconds;
    if (!event) return otherwise;
    cuda_check(cudaEventSynchronize(event));
    cuda_check(cudaEventElapsedTime(&milliseconds, trace.reference, event));
    return 1e3 * (double)milliseconds;
}

// Names are the program's own; what would end a JSON text is left out all the same.
static void print_name(FILE *to, const Span *span) {
    for (const char *c = span->name; *c; c++)
        if (*c != '"' && *c != '\\' && (unsigned char)*c >= ' ') fputc(*c, to);
    if (span->index >= 0) fprintf(to, " %d", span->index);
}

static void print_lanes(FILE *to, int rank) {
    static const char *const lanes[LANES] = {"step", "compute", "communication"};
    fprintf(to, "{\"ph\": \"M\", \"name\": \"process_name\", \"pid\": %d, \"args\": {\"name\": \"rank %d\"}}", rank,
            rank);
    for (int lane = 0; lane < LANES; lane++)
        fprintf(to,
                ",\n{\"ph\": \"M\", \"name\": \"thread_name\", \"pid\": %d, \"tid\": %d, \"args\": {\"name\": \"%s\"}}",
                rank, lane, lanes[lane]);
}

static void print_span(FILE *to, const Span *span, int rank) {
    const double anchor = 1e6 * (double)trace.anchor.tv_sec + 1e-3 * (double)trace.anchor.tv_nsec;
    const double began = read_event(span->begin_at, span->began), ended = read_event(span->end_at, span->ended);
    fprintf(to, ",\n{\"ph\": \"X\", \"name\": \"");
    print_name(to, span);
    fprintf(to, "\", \"pid\": %d, \"tid\": %d, \"ts\": %.3f, \"dur\": %.3f}", rank, (int)span->lane, anchor + began,
            ended - began);
}

int trace_events(char **events, int rank, Error *err) {
    const int asked = atomic_load(&trace.count), count = asked < trace.capacity ? asked : trace.capacity;
    size_t length = 0;
    char *text = NULL;
    FILE *to = open_memstream(&text, &length);
    if (!to) return fail_fault(err, "no memory for a trace's text");
    print_lanes(to, rank);
    for (int i = 0; i < count; i++)
        if (atomic_load(&trace.spans[i].complete)) print_span(to, &trace.spans[i], rank);
    const bool failed = ferror(to);
    if (fclose(to) != 0 || failed) {
        free(text);
        return fail_fault(err, "no memory for a trace's text");
    }
    *events = text;
    return 0;
}

void trace_close(void) {
    if (!atomic_exchange(&trace.open, false)) return;
    const int asked = atomic_load(&trace.count), count = asked < trace.capacity ? asked : trace.capacity;
    for (int i = 0; i < count; i++) {
        if (trace.spans[i].begin_at) cuda_check(cudaEventDestroy(trace.spans[i].begin_at));
        if (trace.spans[i].end_at) cuda_check(cudaEventDestroy(trace.spans[i].end_at));
    }
    cuda_check(cudaEventDestroy(trace.reference));
    free(trace.spans);
    trace.spans = NULL;
    trace.capacity = 0;
}
