#ifndef LLMC_BASE_UTF8_H
#define LLMC_BASE_UTF8_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

// Returns the length in bytes of the well-formed UTF-8 character (RFC 3629: no overlong forms, no surrogates) at the
// beginning of text[room], room >= 1; 0: there is none.
size_t utf8_length(const unsigned char *text, size_t room);

#ifdef __cplusplus
}
#endif
#endif
