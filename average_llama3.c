// Averages models: see average_llama3 --help.
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "checkpoint/average.h"
#include "train/average_options.h"
#include "train/process.h"
#include "train/progress.h"

typedef struct {
    double began, shown; // seconds, monotonic clock
    bool terminal, drawn;
} Clock;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

// A line that is redrawn on a terminal, or a line every ten seconds.
static bool show_progress(void *context, uint64_t done, uint64_t all) {
    Clock *clock = context;
    const double time = now(), between = clock->terminal ? 0.5 : 10, spent = time - clock->began;
    if (process_stop_requested()) return false;
    if (time - clock->shown < between) return true;
    char bytes[24], total[24], left[24];
    progress_count(bytes, sizeof bytes, (double)done);
    progress_count(total, sizeof total, (double)all);
    progress_span(left, sizeof left, spent * (double)(all - done) / (double)(done ? done : 1));
    fprintf(stderr, "%s%sB of %sB read | %s left%s", clock->terminal ? "\r" : "", bytes, total, left,
            clock->terminal ? "\x1b[K" : "\n");
    clock->shown = time;
    clock->drawn = clock->terminal;
    return true;
}

static void print_plan(const AverageSpec *spec, const Average *a) {
    static const char *const types[] = {"the first's types", "fp32", "bf16"};
    char values[24];
    progress_count(values, sizeof values, (double)average_num_values(a));
    printf("%s, weights normalised to sum 1:\n", average_is_adapter(a) ? "adapters" : "models");
    for (int i = 0; i < spec->count; i++) printf("  %.6g  %s\n", average_weight(a, i), spec->inputs[i]);
    printf("%d tensors, %s values, summed in fp64 in this order, rounded to fp32 and then to %s\n",
           average_num_tensors(a), values, types[spec->type]);
    fflush(stdout);
}

static int write_average(const AverageSpec *spec, Average *a, Error *err) {
    Clock clock = {.began = now(), .shown = now(), .terminal = isatty(STDERR_FILENO)};
    int code = average_write(a, show_progress, &clock, err);
    if (clock.drawn) fputs("\r\x1b[K", stderr);
    if (code) return code;
    char bytes[24], span[24];
    progress_count(bytes, sizeof bytes, (double)average_write_bytes(a));
    progress_span(span, sizeof span, now() - clock.began);
    printf("written to %s: %sB in %s\n", spec->output, bytes, span);
    return 0;
}

static int run(const AverageSpec *spec, Error *err) {
    Average *a = NULL;
    int code = average_open(&a, spec, err); // compares all that must be the same
    if (code) return code;
    print_plan(spec, a);
    code = write_average(spec, a, err); // a directory that transformers opens
    average_close(a);
    return code;
}

int main(int argc, char **argv) {
    AverageOptions options;
    Error err = {0};
    process_prepare();
    int code = average_options_parse(&options, argc, argv, &err);
    if (!code) code = run(&options.spec, &err);
    average_options_free(&options);
    if (code) fprintf(stderr, "average_llama3: %s\n", err.message);
    return code;
}
