// What a person sees of a run: one line that is redrawn in place on a terminal (if its width is known), or a line every
// n-th step where the output is a file or a pipe. Nothing here can fail or stop the run: a closed or full output is ignored.
#ifndef LLMC_RUN_PROGRESS_H
#define LLMC_RUN_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

// A value of NAN is not known (yet) and not shown.
typedef struct {
    int64_t step, steps;   // steps done, and of the whole run
    double loss, val_loss; // nats per token; of comparisons per pair
    double accuracy;       // 0..1, of comparisons: the share of pairs whose chosen answer is preferred
    double lr, grad_norm;
    double tokens_per_second;
    double share_of_peak; // 0..1
    double seconds_left;
    const char *what; // what step and steps count; NULL: steps of training
} ProgressState;

typedef struct {
    FILE *out;
    bool terminal;
    int64_t every;     // steps between lines where there is no terminal
    int drawn;         // columns of the line that stands on the terminal; 0: none
    double last_drawn; // seconds, monotonic clock
} Progress;

// Writes the line for a state in ASCII, at most `columns` columns and capacity-1 bytes wide: where it is too wide, the least
// important parts are left out first, step and loss last. Returns its length.
size_t progress_format(char *line, size_t capacity, const ProgressState *state, int columns);

// A time span as a person reads it: "42s", "3m07s", "2h05m", "3d04h". seconds >= 0.
void progress_span(char *text, size_t capacity, double seconds);

// A count in three digits and a letter: "950", "12.3k", "1.20M".
void progress_count(char *text, size_t capacity, double count);

void progress_begin(Progress *progress, FILE *out, int64_t every);

// To be called after each step. On a terminal it redraws the line, at most 20 times a second, in the present width;
// elsewhere it prints a line if the step is 1, a multiple of `every`, or the last.
void progress_show(Progress *progress, const ProgressState *state);

// Prints one or several lines that stay above the progress line.
void progress_print(Progress *progress, const char *format, ...) __attribute__((format(printf, 2, 3)));

// Prints a line to an output that has no progress line. On a terminal a line that is too wide is broken between words, here as
// in progress_print, and its rest is indented by `indent` columns.
void progress_line(FILE *out, int indent, const char *format, ...) __attribute__((format(printf, 3, 4)));

// Leaves the last line standing.
void progress_end(Progress *progress);

#ifdef __cplusplus
}
#endif
#endif
