// How a checkpoint is divided into the parts that ranks write, and how they are named.
#ifndef LLMC_CHECKPOINT_PARTS_H
#define LLMC_CHECKPOINT_PARTS_H

#include <stdbool.h>
#include <stdint.h>

#include "model/llama3_weights.h"

#ifdef __cplusplus
extern "C" {
#endif

#define ADAPTER_FILE "adapter_model.safetensors"

enum { PART_NAME_SIZE = 64, PIECE_NAME_SIZE = 96 + 64 };

// What the metadata of a part's optimizer file say, where there are several, as decimal numbers; the first part is 1.
#define PART_STEP "step"
#define PART_NUMBER "part"
#define PART_COUNT "parts"

// What stands before a parameter's name in these files, by TrainingArray.
extern const char *const training_names[TRAINING_ARRAYS];

// Which part holds a tensor's parameters: parts are runs of tensors, of about the same size. -1: none, the base of adapters;
// adapters, few as they are, are all in the first, as PEFT wants one file.
int part_of_tensor(const ParameterTable *table, int tensor, int parts);

// name = that of a tensor in a model's file: the table's, or with adapters PEFT's.
enum { SAVED_NAME_SIZE = 96 + 32 };
void saved_name(char name[SAVED_NAME_SIZE], const ParameterTable *table, const ParameterTensor *tensor);

// name = the part's file with parameters, relative to the checkpoint: "model.safetensors" of one part (with adapters
// "adapter_model.safetensors", of the first), else
// "model-00002-of-00004.safetensors", counted without parts that hold no tensor. false: this part holds none.
bool part_model_file(char name[PART_NAME_SIZE], const ParameterTable *table, int part, int parts);

// "trainer/optimizer.safetensors", or "trainer/optimizer-00002-of-00004.safetensors" of part 1 of 4.
void part_optimizer_file(char name[PART_NAME_SIZE], int part, int parts);

// name = prefix "." the tensor's name, and after it "[first:end]" where the piece is not the whole tensor.
void piece_name(char name[PIECE_NAME_SIZE], const char *prefix, const ParameterTensor *tensor, size_t first,
                size_t count);

// The other way: name is `text`[first:end] or `text` alone (then *whole). base = `text` without the brackets. false:
// malformed (no digits, first >= end, beyond 63 bits, longer than a name is).
bool piece_parse(const char *name, char base[PIECE_NAME_SIZE], bool *whole, uint64_t *first, uint64_t *end);

#ifdef __cplusplus
}
#endif
#endif
