// The options of merge_lora.
#ifndef LLMC_TOOLS_MERGE_OPTIONS_H
#define LLMC_TOOLS_MERGE_OPTIONS_H

#include "tools/merge.h"

#ifdef __cplusplus
extern "C" {
#endif

// *spec points into argv. --help, and usage that argp itself refuses (2), end the program. Errors: 2, naming the option, what
// was found and expected.
int merge_options_parse(MergeSpec *spec, int argc, char **argv, Error *err);

#ifdef __cplusplus
}
#endif
#endif
