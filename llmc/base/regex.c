#include "base/regex.h"

#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

bool regex_fullmatch(bool *matches, const char *pattern, const char *text) {
    int error;
    PCRE2_SIZE at;
    if (strstr(pattern, "{,")) return false; // PCRE takes it for itself, Python for a number of repetitions
    pcre2_code *code =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                      PCRE2_UTF | PCRE2_ANCHORED | PCRE2_ENDANCHORED | PCRE2_DOLLAR_ENDONLY, &error, &at, NULL);
    pcre2_match_data *data = code ? pcre2_match_data_create_from_pattern(code, NULL) : NULL;
    const int found = data ? pcre2_match(code, (PCRE2_SPTR)text, strlen(text), 0, 0, data, NULL) : PCRE2_ERROR_NOMEMORY;
    pcre2_match_data_free(data);
    pcre2_code_free(code);
    *matches = found > 0;
    return found > 0 || found == PCRE2_ERROR_NOMATCH;
}
