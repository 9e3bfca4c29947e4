#include "standins.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

bool standin_is_set(const char *name) {
    const char *value = getenv(name);
    return value && *value && *value != '0';
}

bool standin_strict() { return standin_is_set("LLMC_STANDIN_STRICT"); }

void standin_tell(const char *library, const char *format, ...) {
    if (!standin_is_set("LLMC_STANDIN_TELL")) return;
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(stderr, "llmc: %s refuses: %s\n", library, text);
}
