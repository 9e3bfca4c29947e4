// What merge.c (opening), merge_config.c (adapter_config.json) and merge_write.c share.
#ifndef LLMC_CHECKPOINT_MERGE_INTERNAL_H
#define LLMC_CHECKPOINT_MERGE_INTERNAL_H

#include "checkpoint/merge.h"
#include "model/config.h"

// In every output: by it a folder is known as ours.
#define MERGE_MARK "merge.json"

// Before the names of the base's modules, in the adapter.
#define ADAPTER_PREFIX "base_model.model."

extern const ModelMaker merge_maker;

typedef enum { TASK_ANY, TASK_LANGUAGE_MODEL, TASK_REWARD_MODEL } AdapterTask;

typedef struct {
    char path[PATH_MAX];
    cJSON *json; // owned; the others point into it
    int rank;
    double scale;
    AdapterTask task;
    const char *base;             // NULL: none named
    const cJSON *targets, *saved; // names of modules; saved NULL: none
    bool everywhere;              // each module of such a name has its tensors
} AdapterFields;

// Reads the adapter_config.json of a folder. Errors: 2 (field, found, expected), 1. json is to be freed in any case.
int merge_read_config(AdapterFields *fields, const char *folder, Error *err);

// The first of the names that the module has (all of it, or behind a dot); -1: none. names NULL: none.
int merge_named(const cJSON *names, const char *module, size_t length);

// What becomes of a tensor of the output: base + scale * b a; or whole, in place of base where there is one.
typedef struct {
    const SafetensorsTensor *base, *a, *b, *whole;
} MergePart;

struct Merge {
    const MergeSpec *spec;
    const char *base_folder;
    char base_config[PATH_MAX]; // path
    SafetensorsReader *base, *adapter;
    AdapterFields fields;
    LlamaConfig config;   // of the output
    bool becomes_reward;  // the base is a language model, the output is not
    MergePart *parts;     // [count]
    ModelTensor *tensors; // [count]
    int count;
    uint64_t read_bytes, write_bytes;
};

#endif
