// JSON from outside, parsed by cJSON, with the checks that cJSON leaves out.
#ifndef LLMC_BASE_JSON_H
#define LLMC_BASE_JSON_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

// A value takes about 80 bytes of memory: a file of small ones must not become 40 times its size.
enum { JSON_MAX_DEPTH = 64, JSON_MAX_VALUES = 1 << 22 };

// *json = the one JSON object in the text, to be freed by cJSON_Delete; white space around it and a byte order mark before
// it are allowed. Refused (2): bytes that are not UTF-8, zero bytes and \u0000 (cJSON's strings end there), nesting deeper
// than JSON_MAX_DEPTH, more than JSON_MAX_VALUES values, syntax errors, a root that is not an object. path: for the message.
int json_parse_object(cJSON **json, const char *text, size_t length, const char *path, Error *err);
int json_read_object(cJSON **json, const char *path, size_t max_bytes, Error *err);

// Refuses (2) an object in which a key stands twice: cJSON would keep both and show the first. where: for the message.
int json_check_unique(const cJSON *object, const char *path, const char *where, Error *err);

// Returns the member of exactly that name (cJSON's shorter function ignores case); NULL: absent.
const cJSON *json_get(const cJSON *object, const char *name);

// Returns true if it is an integer from 0 to max (at most 2^53, up to which doubles are exact); then *value =.
bool json_is_count(const cJSON *json, uint64_t max, uint64_t *value);

// Returns JSON text that json_parse_object can read, to be freed by cJSON_free: a byte that is not UTF-8, as paths may have
// them, becomes a question mark. NULL: out of memory.
char *json_print(const cJSON *json, bool indented);

#ifdef __cplusplus
}
#endif
#endif
