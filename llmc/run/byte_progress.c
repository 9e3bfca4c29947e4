#include "run/byte_progress.h"

#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "run/process.h"
#include "run/progress.h"

void byte_progress_begin(ByteProgress *p) {
    *p = (ByteProgress){.began = clock_seconds(), .shown = clock_seconds(), .terminal = isatty(STDERR_FILENO)};
}

bool byte_progress_show(void *progress, uint64_t done, uint64_t all) {
    ByteProgress *p = progress;
    const double time = clock_seconds(), between = p->terminal ? 0.5 : 10, spent = time - p->began;
    if (process_stop_requested()) return false;
    if (time - p->shown < between) return true;
    char bytes[24], total[24], left[24];
    progress_count(bytes, sizeof bytes, (double)done);
    progress_count(total, sizeof total, (double)all);
    progress_span(left, sizeof left, spent * (double)(all - done) / (double)(done ? done : 1));
    fprintf(stderr, "%s%sB of %sB read | %s left%s", p->terminal ? "\r" : "", bytes, total, left,
            p->terminal ? "\x1b[K" : "\n");
    p->shown = time;
    p->drawn = p->terminal;
    return true;
}

double byte_progress_end(ByteProgress *p) {
    if (p->drawn) fputs("\r\x1b[K", stderr);
    p->drawn = false;
    return clock_seconds() - p->began;
}

void byte_progress_print(const char *output, uint64_t bytes, double seconds) {
    char size[24], span[24];
    progress_count(size, sizeof size, (double)bytes);
    progress_span(span, sizeof span, seconds);
    printf("written to %s: %sB in %s\n", output, size, span);
}
