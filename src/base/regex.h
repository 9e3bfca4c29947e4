// Python's regular expressions on short ASCII texts, as far as they select modules: what re.fullmatch finds, without
// groups' contents. Lookbehind, references, flags and possessive quantifiers are not understood.
#ifndef LLMC_BASE_REGEX_H
#define LLMC_BASE_REGEX_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { REGEX_MAX_TEXT = 511 };

// *matches = does the whole text (of at most REGEX_MAX_TEXT bytes) match? false: the pattern is none, is not understood, or
// takes too long.
bool regex_fullmatch(bool *matches, const char *pattern, const char *text);

#ifdef __cplusplus
}
#endif
#endif
