// Spans of time on this rank, for Chrome's and Perfetto's trace viewers. All calls do nothing until trace_open, and from
// trace_close on. One span at a time in a lane; lanes may be used from different threads.
#ifndef LLMC_DEVICE_TRACE_H
#define LLMC_DEVICE_TRACE_H

#include <cuda_runtime.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { LANE_STEP, LANE_COMPUTE, LANE_COMMUNICATION, LANES } TraceLane;

// Begins to record. capacity: how many spans are kept; later ones are dropped. Errors: 1 (memory).
int trace_open(int capacity, Error *err);

// A span of what is queued on `stream` between the two calls (on the cpu target: of the time between them). name:
// copied; index: shown after it, -1: none. A NULL stream: the host's time at the calls.
void trace_begin(TraceLane lane, const char *name, int index, cudaStream_t stream);
void trace_end(TraceLane lane, cudaStream_t stream);

// *events = JSON objects of all spans, separated by ",\n", with rank as their process, to be freed by the caller; times
// in microseconds of this machine's wall clock. Waits for the device. Errors: 1.
int trace_events(char **events, int rank, Error *err);
void trace_close(void);

#ifdef __cplusplus
}
#endif
#endif
