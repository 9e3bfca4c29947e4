// The first field in which two configurations differ.
#ifndef LLMC_MODEL_CONFIG_COMPARE_H
#define LLMC_MODEL_CONFIG_COMPARE_H

#include "model/config.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { LLAMA_FIELD_TEXT = 64 };

// Returns whether they differ; then field = the name in config.json, and value_a and value_b = its value in each.
bool llama_config_difference(const LlamaConfig *a, const LlamaConfig *b, char field[LLAMA_FIELD_TEXT],
                             char value_a[LLAMA_FIELD_TEXT], char value_b[LLAMA_FIELD_TEXT]);

#ifdef __cplusplus
}
#endif
#endif
