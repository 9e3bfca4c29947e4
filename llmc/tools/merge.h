// A model and a LoRA adapter of it (PEFT's directory) in, one model out: W' = W + scale * B A where the adapter has a pair,
// the adapter's tensor where it has a whole one (modules_to_save), the base's else. In fp32; rounded once to the type of the
// output.
#ifndef LLMC_TOOLS_MERGE_H
#define LLMC_TOOLS_MERGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "checkpoint/leftovers.h"
#include "checkpoint/model_folder.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const char *adapter; // folder with adapter_config.json and adapter_model.safetensors
    const char *base;    // folder of the model; NULL: the one that the adapter names
    const char *output;  // folder that is made
    ModelType type;      // same: each tensor's of the base; of one that the base lacks, the adapter's
    bool overwrite;      // allow an output that merge_write made, and replace it
} MergeSpec;

typedef struct Merge Merge;

// Opens both and compares them: every tensor of the adapter has its place, every module that the adapter names its tensors.
// Adapters that mean anything else than the above are refused by the field. Writes nothing. The spec must stay until the
// end. Errors: 2 (file, tensor or field, what was found and expected; also an output that is an input, around one, or there
// already), 1.
int merge_open(Merge **out, const MergeSpec *spec, Error *err);

const char *merge_base(const Merge *m);
const Leftovers *merge_dropped(const Merge *m); // what is left out of the base

typedef struct {
    double least, most;
} MergeRange;
MergeRange merge_ranks(const Merge *m), merge_scales(const Merge *m); // of all pairs (rank_pattern, alpha_pattern)

// How many tensors of the adapter PEFT would not load; *field = what leaves the first of them out.
int merge_num_ignored(const Merge *m, const char **field);
bool merge_unties_head(const Merge *m); // the base has one matrix for embedding and head, the output two

int merge_num_tensors(const Merge *m), merge_num_pairs(const Merge *m), merge_num_whole(const Merge *m);
uint64_t merge_read_bytes(const Merge *m), merge_write_bytes(const Merge *m); // of tensors

// Makes OUTPUT.merge.tmp, which takes its name when all is on the disk: tensors in files as the base has them, its
// configuration (a language model becomes a reward model where the adapter is one's), tokenizer and template files of the
// adapter or else the base, and merge.json, which says what this is made of. In memory are the two matrices of one tensor and
// some MB. report (bytes read) NULL: none. Errors: 2 (values that are not finite: file and tensor; another program
// writes there), 1 (I/O, given up). After an error the temporary folder is gone, and what was at OUTPUT is there.
int merge_write(Merge *m, ModelReport report, void *context, Error *err);

void merge_close(Merge *m); // NULL is allowed

#ifdef __cplusplus
}
#endif
#endif
