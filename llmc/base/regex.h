// Python's regular expressions, as adapters' configurations select modules by them.
#ifndef LLMC_BASE_REGEX_H
#define LLMC_BASE_REGEX_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

// *matches = does the whole text match, as re.fullmatch finds? false: the pattern is none, means something else to PCRE than
// to Python ("{,3}"), or takes too long.
bool regex_fullmatch(bool *matches, const char *pattern, const char *text);

#ifdef __cplusplus
}
#endif
#endif
