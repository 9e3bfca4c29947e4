// The average of models: Hugging Face directories in, one out. It works on tensors by their names, so that a language
// model, a reward model or a LoRA adapter (adapter_model.safetensors) is averaged alike; of an adapter A and B each for
// itself, which is not the average of the merged models.
//
// out = sum over i of w_i x_i, in fp64, in the order of the inputs; rounded once to fp32 and from there to the type of
// the output. (So equal models give themselves, bit for bit, in each type.)
#ifndef LLMC_TOOLS_AVERAGE_H
#define LLMC_TOOLS_AVERAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "checkpoint/leftovers.h"
#include "checkpoint/model_folder.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const char *const *inputs; // [count] folders
    int count;
    const double *weights; // [count], not negative, not all 0; NULL: all the same
    const char *output;    // folder that is made
    ModelType type;        // same: each tensor's of the first input
    bool overwrite;        // allow an output that average_write made, and replace it
} AverageSpec;

typedef struct Average Average;

// Opens the inputs and compares them with the first: kind, configuration (what of it changes the model), tokenizer,
// tensors and their shapes; types may differ. Writes nothing. The spec must stay until the end. Errors: 2 (file, tensor
// or field, what was found and expected; also an output that is one of the inputs, around one, or there already), 1.
int average_open(Average **out, const AverageSpec *spec, Error *err);

double average_weight(const Average *a, int input);            // as it is used: all together are 1
const Leftovers *average_dropped(const Average *a, int input); // what is left out of it
bool average_is_adapter(const Average *a);
int average_num_tensors(const Average *a);
uint64_t average_num_values(const Average *a);
uint64_t average_read_bytes(const Average *a), average_write_bytes(const Average *a); // of tensors

// Makes OUTPUT.average.tmp, which takes its name when all is on the disk: tensors in files as the first input has them, its
// configuration, tokenizer and template files, and average.json, which says what this is the average of. Beside
// some MB nothing is in memory. One that a killed program left is removed. report (bytes read) NULL: none. Errors: 2 (values that are
// not finite: file and tensor; another program writes there), 1 (I/O, given up). After an error the temporary folder
// is gone, and what was at OUTPUT is there.
int average_write(Average *a, ModelReport report, void *context, Error *err);

void average_close(Average *a); // NULL is allowed

#ifdef __cplusplus
}
#endif
#endif
