#include "run/progress.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"

enum { DEFAULT_COLUMNS = 80, PLAIN_COLUMNS = 250, MAX_LINE = 256 };

static const double SECONDS_BETWEEN_DRAWS = 0.05;

// ---- the line as text

void progress_span(char *text, size_t capacity, double seconds) {
    long long s = seconds < 0 ? 0 : seconds > 8.6e9 ? 8600000000LL : llround(seconds);
    if (s < 60)
        snprintf(text, capacity, "%llds", s);
    else if (s < 3600)
        snprintf(text, capacity, "%lldm%02llds", s / 60, s % 60);
    else if (s < 86400)
        snprintf(text, capacity, "%lldh%02lldm", s / 3600, s / 60 % 60);
    else
        snprintf(text, capacity, "%lldd%02lldh", s / 86400, s / 3600 % 24);
}

void progress_count(char *text, size_t capacity, double count) {
    static const char letters[] = " kMGTP";
    int i = 0;
    // 999.5 would be written as 1000: the next letter begins where three digits end
    while (i < 5 && count >= 999.5) {
        count /= 1000;
        i++;
    }
    int decimals = i == 0 || count >= 99.95 ? 0 : count >= 9.995 ? 1 : 2;
    snprintf(text, capacity, "%.*f%.*s", decimals, count, i > 0, &letters[i]);
}

enum { PART_STEP, PART_LOSS, PART_ACCURACY, PART_VAL, PART_LR, PART_NORM, PART_SPEED, PART_PEAK, PART_LEFT, PARTS };

// from the part that goes first when the line is too wide
static const int expendable[] = {PART_PEAK,  PART_NORM, PART_LR,       PART_LEFT,
                                 PART_SPEED, PART_VAL,  PART_ACCURACY, PART_LOSS};

static void format_parts(char parts[PARTS][48], const ProgressState *state) {
    char text[24];
    for (int i = 0; i < PARTS; i++) parts[i][0] = 0;
    snprintf(parts[PART_STEP], 48, "%s %lld/%lld", state->what ? state->what : "step", (long long)state->step,
             (long long)state->steps);
    if (!isnan(state->loss)) snprintf(parts[PART_LOSS], 48, "loss %.4f", state->loss);
    if (!isnan(state->accuracy)) snprintf(parts[PART_ACCURACY], 48, "right %.1f%%", 100 * state->accuracy);
    if (!isnan(state->val_loss)) snprintf(parts[PART_VAL], 48, "val %.4f", state->val_loss);
    if (!isnan(state->lr)) snprintf(parts[PART_LR], 48, "lr %.2e", state->lr);
    if (!isnan(state->grad_norm)) snprintf(parts[PART_NORM], 48, "norm %.3g", state->grad_norm);
    if (!isnan(state->share_of_peak)) snprintf(parts[PART_PEAK], 48, "%.1f%% of peak", 100 * state->share_of_peak);
    if (!isnan(state->tokens_per_second)) {
        progress_count(text, sizeof text, state->tokens_per_second);
        snprintf(parts[PART_SPEED], 48, "%s tok/s", text);
    }
    if (!isnan(state->seconds_left)) {
        progress_span(text, sizeof text, state->seconds_left);
        snprintf(parts[PART_LEFT], 48, "%s left", text);
    }
}

static size_t joined_length(char parts[PARTS][48]) {
    size_t length = 0;
    for (int i = 0; i < PARTS; i++)
        if (parts[i][0]) length += strlen(parts[i]) + (length ? 3 : 0);
    return length;
}

// Copies at most `room` bytes of text, without its zero byte; returns how many.
static size_t append(char *line, const char *text, size_t room) {
    size_t length = strnlen(text, room);
    memcpy(line, text, length);
    return length;
}

size_t progress_format(char *line, size_t capacity, const ProgressState *state, int columns) {
    char parts[PARTS][48];
    format_parts(parts, state);
    if (capacity == 0) return 0;
    size_t width = columns < 0 ? 0 : (size_t)columns < capacity - 1 ? (size_t)columns : capacity - 1;
    for (size_t i = 0; i < sizeof expendable / sizeof expendable[0] && joined_length(parts) > width; i++)
        parts[expendable[i]][0] = 0;
    size_t length = 0;
    line[0] = 0;
    for (int i = 0; i < PARTS; i++) {
        if (!parts[i][0]) continue;
        if (length) length += append(line + length, " | ", width - length);
        length += append(line + length, parts[i], width - length);
    }
    line[length] = 0;
    return length;
}

// ---- the line on a screen

// Asked at every draw, so that no signal has to tell of a change. 0: not known.
static int known_columns(FILE *out) {
    struct winsize size;
    return ioctl(fileno(out), TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

static int terminal_columns(const Progress *progress) {
    const int columns = known_columns(progress->out);
    return columns ? columns : DEFAULT_COLUMNS;
}

// mpirun gives its first rank a terminal wherever its own output goes; that one has no width.
void progress_begin(Progress *progress, FILE *out, int64_t every) {
    const bool terminal = isatty(fileno(out)) && known_columns(out) > 0;
    *progress = (Progress){.out = out, .terminal = terminal, .every = every, .last_drawn = -1};
}

// Takes the drawn line off the screen. One that became wider than the terminal was folded into several rows.
static void erase(Progress *progress) {
    if (progress->drawn == 0) return;
    int rows_above = (progress->drawn - 1) / terminal_columns(progress);
    if (rows_above > 0) fprintf(progress->out, "\x1b[%dA", rows_above);
    fputs("\r\x1b[J", progress->out);
    progress->drawn = 0;
}

static void draw(Progress *progress, const ProgressState *state) {
    double time = clock_seconds();
    bool last = state->step == state->steps;
    if (!last && time - progress->last_drawn < SECONDS_BETWEEN_DRAWS) return;
    char line[MAX_LINE];
    // the last column stays free: a terminal that has just filled it may have moved to the next row
    size_t length = progress_format(line, sizeof line, state, terminal_columns(progress) - 1);
    erase(progress);
    fputs(line, progress->out);
    progress->drawn = (int)length;
    progress->last_drawn = time;
}

static void flush(Progress *progress) {
    fflush(progress->out);
    clearerr(progress->out); // an output that is full now may not be so later
}

void progress_show(Progress *progress, const ProgressState *state) {
    if (progress->terminal) {
        draw(progress, state);
    } else if (state->step == 1 || state->step % progress->every == 0 || state->step == state->steps) {
        char line[MAX_LINE];
        progress_format(line, sizeof line, state, PLAIN_COLUMNS);
        fprintf(progress->out, "%s\n", line);
    }
    flush(progress);
}

// How many bytes of the text, up to its end or the end of its line, are a row of at most `columns`; what stands at a gap
// between words goes there. A word that is wider is the terminal's to fold.
static size_t row_of(const char *text, int columns) {
    size_t fits = 0;
    int width = 0;
    for (size_t i = 0;; i++) {
        const bool ends = !text[i] || text[i] == '\n';
        if (ends || text[i] == ' ') {
            if (width > columns && fits) return fits;
            fits = i;
        }
        if (ends) return i;
        width += (text[i] & 0xC0) != 0x80; // of UTF-8 the first byte of a character
    }
}

// The first line alone: the lines after it are somebody else's text.
static void put_line(FILE *out, const char *text, int indent) {
    const int columns = isatty(fileno(out)) ? known_columns(out) : 0;
    for (int before = 0; columns > 2 * indent; before = indent) {
        const size_t length = row_of(text, columns - before);
        fprintf(out, "%*s%.*s", before, "", (int)length, text);
        text += length;
        if (*text != ' ') break;
        text++;
        fputc('\n', out);
    }
    fprintf(out, "%s\n", text);
}

static void print_wrapped(FILE *out, int indent, const char *format, va_list arguments) {
    char *text = NULL;
    if (vasprintf(&text, format, arguments) < 0) return;
    put_line(out, text, indent);
    free(text);
}

void progress_line(FILE *out, int indent, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    print_wrapped(out, indent, format, arguments);
    va_end(arguments);
}

void progress_print(Progress *progress, const char *format, ...) {
    enum { INDENT = 2 };
    erase(progress);
    va_list arguments;
    va_start(arguments, format);
    print_wrapped(progress->out, INDENT, format, arguments);
    va_end(arguments);
    flush(progress);
}

void progress_end(Progress *progress) {
    if (progress->drawn) fputc('\n', progress->out);
    progress->drawn = 0;
    flush(progress);
}
