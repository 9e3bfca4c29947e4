// The options of average_llama3.
#ifndef LLMC_TOOLS_AVERAGE_OPTIONS_H
#define LLMC_TOOLS_AVERAGE_OPTIONS_H

#include "tools/average.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    AverageSpec spec;    // points into argv, and to:
    const char **inputs; // owned
    double *weights;     // owned; NULL: not given
} AverageOptions;

// --help, and usage that argp itself refuses (2), end the program. Errors: 2, naming the option, what was found and
// expected; 1. average_options_free is due in any case.
int average_options_parse(AverageOptions *options, int argc, char **argv, Error *err);

void average_options_free(AverageOptions *options);

#ifdef __cplusplus
}
#endif
#endif
