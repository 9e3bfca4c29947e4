// Where a value stands in a JSON text, for messages.
#ifndef LLMC_BASE_JSON_PLACE_H
#define LLMC_BASE_JSON_PLACE_H

#include <cjson/cJSON.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

// path = the way from the root to the value, as in stages[2].mixture[0].weight, cut to capacity; "" for the root. Returns the
// line of the text, from 1, on which it begins; 0: it is no value of that tree. text: what root was parsed from, unchanged.
int json_place(const cJSON *root, const cJSON *value, const char *text, char *path, size_t capacity);

#ifdef __cplusplus
}
#endif
#endif
