#include "base/version.h"

#include <stdio.h>

// The Makefile's; a build without it (of a fuzz target, say) knows less of itself.
#ifndef LLMC_BUILD
#define LLMC_BUILD LLMC_VERSION
#endif

#ifdef LLMC_PRECISION_fp32
const char *version_precision(void) { return "fp32"; }
#else
const char *version_precision(void) { return "bf16"; }
#endif

const char *version_of(const char *program) {
    static char text[256];
    snprintf(text, sizeof text, "%s " LLMC_BUILD, program);
    return text;
}
