// What merge_open.c, merge_config.c (adapter_config.json) and merge_write.c share.
#ifndef LLMC_TOOLS_MERGE_INTERNAL_H
#define LLMC_TOOLS_MERGE_INTERNAL_H

#include "model/config.h"
#include "tools/merge.h"

// In every output: by it a folder is known as ours.
#define MERGE_MARK "merge.json"

// Before the names of the base's modules, in the adapter.
#define ADAPTER_PREFIX "base_model.model."

#define HEAD "lm_head.weight"
#define SCORE "score.weight"
#define EMBEDDING "model.embed_tokens.weight"
#define WEIGHT ".weight"

extern const ModelMaker merge_maker;

typedef enum { TASK_ANY, TASK_LANGUAGE_MODEL, TASK_REWARD_MODEL } AdapterTask;

typedef struct {
    char path[PATH_MAX];
    cJSON *json; // owned; the others point into it
    int rank;
    double alpha;
    bool root;  // alpha is divided by the root of the rank
    bool tying; // the adapters of a tied model's two matrices are one
    AdapterTask task;
    const char *base;                // NULL: none named
    const cJSON *targets, *excluded; // a list of names' endings, or a regular expression
    const cJSON *saved;              // a list of names' endings
    const cJSON *layers;             // a number or a list of numbers
    const cJSON *layers_pattern;     // what stands before the number: a regular expression, or a list of them
    const cJSON *ranks, *alphas;     // of modules that a regular expression names; all these: NULL where there are none
} AdapterFields;

// Reads the adapter_config.json of a folder. Errors: 2 (field, found, expected), 1. json is to be freed in any case.
int merge_read_config(AdapterFields *fields, const char *folder, Error *err);

// Which modules PEFT changes (peft/tuners/tuners_utils.py, check_target_module_exists; utils/other.py, _set_trainable).

enum { MODULE_NAME = 512 };

// NULL: the module has LoRA; else the field of adapter_config.json that leaves it out.
const char *merge_leaves_out(const AdapterFields *fields, const char *module);

// Is the module, or one that it is part of, among modules_to_save?
bool merge_is_saved(const AdapterFields *fields, const char *module);

int merge_module_rank(const AdapterFields *fields, const char *module);
double merge_module_scale(const AdapterFields *fields, const char *module);

// What becomes of a tensor of the output: base + scale * b a; whole in place of base where there is one.
typedef struct {
    const SafetensorsTensor *base, *a, *b, *whole;
    bool embedding;  // a and b are those of a lookup: base + scale * (b a)^T
    bool base_layer; // whole is what a and b are added to
    int rank;
    double scale;
} MergePart;

struct Merge {
    const MergeSpec *spec;
    const char *base_folder;
    char base_config[PATH_MAX]; // path
    SafetensorsReader *base, *adapter;
    AdapterFields fields;
    LlamaConfig config;   // of the output
    bool becomes_reward;  // the base is a language model, the output is not
    bool unties;          // the base has one matrix for embedding and head, the output two
    Leftovers dropped;    // from the base
    int num_ignored;      // tensors of modules that the configuration leaves out
    const char *ignored;  // the field that does so, of the first
    MergePart *parts;     // [count]
    ModelTensor *tensors; // [count]
    int count;
    uint64_t read_bytes, write_bytes;
};

// Has the adapter matrices for the embedding or the head alone, where the base has one for both?
bool merge_unties(const Merge *m);

// Gives every tensor of the adapter its place in the parts, and checks that all is there, in its shape. Errors: 2.
int merge_take_adapter(Merge *m, Error *err);

#endif
