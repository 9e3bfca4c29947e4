#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>

static int fail(Error *err, int code, const char *format, va_list args) {
    if (err == NULL) return code;
    err->code = code;
    vsnprintf(err->message, sizeof err->message, format, args);
    return code;
}

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
