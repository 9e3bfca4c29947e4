#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>

static int fail(Error *err, int code, const char *format, va_list args) {
    if (err == NULL) return code;
    err->code = code;
    vsnprintf(err->message, sizeof err->message, format, args);
    // names in it may come from a hostile file; the message stays one line and leaves the terminal alone
    for (unsigned char *at = (unsigned char *)err->message; *at != 0; at++) {
        if (*at < 0x20 || *at == 0x7F) *at = '?';
    }
    return code;
}

static const char *program_name = "llmc";

void error_set_program(const char *name) { program_name = name; }

const char *error_program(void) { return program_name; }

void error_print(const char *format, ...) {
    char line[8192];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    fprintf(stderr, "%s: %s\n", program_name, line);
}

#undef fail_input // what error.h tells clang-tidy
#undef fail_fault

int fail_input(Error *err, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fail(err, ERROR_INPUT, format, args);
    va_end(args);
    return ERROR_INPUT;
}

int fail_fault(Error *err, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fail(err, ERROR_FAULT, format, args);
    va_end(args);
    return ERROR_FAULT;
}
