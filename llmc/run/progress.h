// What a person sees: one line that is redrawn in place on a terminal (that tells its width), or one line every so many
// steps where the output is a file or a pipe. Nothing here can fail or stop the run: a closed or full output is passed
// over.
#ifndef LLMC_RUN_PROGRESS_H
#define LLMC_RUN_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

// NAN: not known (yet), and not shown.
typedef struct {
    int64_t step, steps;   // steps done, and of the whole run
    double loss, val_loss; // nats per token; of comparisons per pair
    double accuracy;       // 0..1, of comparisons: pairs whose better answer is preferred
    double lr, grad_norm;
    double tokens_per_second;
    double share_of_peak; // 0..1
    double seconds_left;
    const char *what; // is counted by step and steps; NULL: steps of training
} ProgressState;

typedef struct {
    FILE *out;
    bool terminal;
    int64_t every;     // steps between lines where there is no terminal
    int drawn;         // columns of the line that stands on the terminal; 0: none
    double last_drawn; // seconds, monotonic clock
} Progress;

// The line for a state, at most `columns` columns and capacity-1 bytes wide: the least important parts are
// left out first, step and loss last. Returns its length. ASCII.
size_t progress_format(char *line, size_t capacity, const ProgressState *state, int columns);

// A time span as a person reads it: "42s", "3m07s", "2h05m", "3d04h". seconds >= 0.
void progress_span(char *text, size_t capacity, double seconds);

// A count in three digits and a letter: "950", "12.3k", "1.20M".
void progress_count(char *text, size_t capacity, double count);

void progress_begin(Progress *progress, FILE *out, int64_t every);

// After each step. Terminal: redraws, at most 20 times a second, in the terminal's present width. Else:
// prints a line if step is 1, a multiple of `every`, or the last.
void progress_show(Progress *progress, const ProgressState *state);

// A line, or several, that stays: above the progress line.
void progress_print(Progress *progress, const char *format, ...) __attribute__((format(printf, 2, 3)));

// A line to an output without a progress line. On a terminal, here as in progress_print, it is broken between words where it
// is wider, and goes on below `indent` columns further right.
void progress_say(FILE *out, int indent, const char *format, ...) __attribute__((format(printf, 3, 4)));

// Leaves the last line standing.
void progress_end(Progress *progress);

#ifdef __cplusplus
}
#endif
#endif
