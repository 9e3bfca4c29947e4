// What average_open.c, average_compare.c and average_write.c share.
#ifndef LLMC_TOOLS_AVERAGE_INTERNAL_H
#define LLMC_TOOLS_AVERAGE_INTERNAL_H

#include "checkpoint/leftovers.h"
#include "checkpoint/safetensors.h"
#include "tools/average.h"

#define AVERAGE_MARK "average.json"

extern const ModelMaker average_maker;

typedef struct {
    const char *folder;
    SafetensorsReader *reader;
    Leftovers dropped; // from the reader
    double weight;
} AverageInput;

struct Average {
    const AverageSpec *spec;
    AverageInput *inputs; // [spec->count]
    bool adapter;
    uint64_t values, read_bytes, write_bytes;
};

SafetensorsType average_out_type(const Average *a, const SafetensorsTensor *tensor); // a tensor of the first input

// Compares input i with the first. Errors: 2, 1.
int average_compare_configs(const Average *a, int i, Error *err);
int average_drop_leftovers(Average *a, int i, Error *err); // of a model
int average_compare_tokenizers(const Average *a, int i, Error *err);
int average_compare_tensors(const Average *a, int i, Error *err);

#endif
