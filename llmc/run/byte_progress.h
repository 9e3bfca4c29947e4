// How far a program is that reads through its inputs: on stderr, a line that is redrawn on a terminal, or a line every ten
// seconds.
#ifndef LLMC_RUN_BYTE_PROGRESS_H
#define LLMC_RUN_BYTE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    double began, shown; // seconds, monotonic clock
    bool terminal, drawn;
} ByteProgress;

void byte_progress_begin(ByteProgress *p);
bool byte_progress_show(void *progress, uint64_t done, uint64_t all); // a ModelReport; false: a signal asks to stop
double byte_progress_end(ByteProgress *p);                            // removes the line; seconds since the begin

// A line on stdout: what was written, of how many bytes, in what time.
void byte_progress_print(const char *output, uint64_t bytes, double seconds);

#ifdef __cplusplus
}
#endif
#endif
