// Python's regular expressions, by which adapters' configurations select modules.
#ifndef LLMC_BASE_REGEX_H
#define LLMC_BASE_REGEX_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

// *matches = whether the whole text matches, as in re.fullmatch. Returns false if the pattern is invalid, means something
// else to PCRE than to Python ("{,3}"), or takes too long.
bool regex_fullmatch(bool *matches, const char *pattern, const char *text);

#ifdef __cplusplus
}
#endif
#endif
