// What reading, checking and writing a configuration share: its whole numbers as a table, and names of architectures.
#ifndef LLMC_MODEL_CONFIG_FIELDS_H
#define LLMC_MODEL_CONFIG_FIELDS_H

#include <stddef.h>

#include "model/config.h"

#define LANGUAGE_MODEL "LlamaForCausalLM"
#define REWARD_MODEL "LlamaForSequenceClassification"

// A field that is one whole number: its name, place and bounds (both included).
typedef struct {
    const char *name;
    size_t offset;
    int min, max;
    int multiple; // the value must be a multiple of it: rows are whole units of 16 bytes
    int absent;   // the value where the file has none; REQUIRED; or DERIVED from other fields, which null means too
} IntField;

enum { REQUIRED = -1, DERIVED = -2, INT_FIELDS = 8 };
extern const IntField llama_int_fields[INT_FIELDS];

static inline int *llama_int_field(LlamaConfig *config, const IntField *field) {
    return (int *)((char *)config + field->offset);
}

#endif
