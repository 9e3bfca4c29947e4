// A Hugging Face directory that a program makes of others: it appears whole or not at all, and only what the program made
// itself is replaced. What average.h and merge.h share.
#ifndef LLMC_CHECKPOINT_MODEL_FOLDER_H
#define LLMC_CHECKPOINT_MODEL_FOLDER_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/json.h"
#include "checkpoint/safetensors.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { MODEL_CONFIG_BYTES = 4 << 20 };

typedef enum { MODEL_SAME, MODEL_FP32, MODEL_BF16, MODEL_TYPES } ModelType; // same: as in the input

const char *model_type_name(ModelType type); // "same", "fp32", "bf16"
SafetensorsType model_type_of(ModelType type, SafetensorsType input);

// Called now and then: bytes done so far, of all. false: give up.
typedef bool (*ModelReport)(void *context, uint64_t done, uint64_t all);

// "[64, 4]"
enum { MODEL_SHAPE_TEXT = 24 * SAFETENSORS_MAX_DIMS + 3 };
void model_print_shape(char text[MODEL_SHAPE_TEXT], const SafetensorsTensor *tensor);

// The tensors of a PEFT adapter, adapter_model.safetensors; a pickle is refused. Errors: 2, 1.
int model_open_adapter(SafetensorsReader **out, const char *folder, Error *err);

// Is there a file of that name in the folder?
bool model_folder_has(const char *folder, const char *name);

// Who makes it.
typedef struct {
    const char *program;  // "average_llama3"
    const char *mark;     // "average.json": in every output; by it a folder is known as the program's
    const char *suffix;   // "average": the temporary folder is OUTPUT.average.tmp
    const char *input;    // "checkpoint": what the inputs are called
    const char *contents; // "the average"
} ModelMaker;

// May a folder be made at output? Not where it, or a name that is taken on the way, is one of the inputs, or around one, or where
// it is there already; with overwrite one that the maker made may be there. Errors: 2, 1.
int model_folder_check(const ModelMaker *maker, const char *output, const char *const *inputs, int count,
                       bool overwrite, Error *err);

typedef struct {
    const ModelMaker *maker;
    const char *output;
    char folder[PATH_MAX]; // OUTPUT.suffix.tmp
    char aside[PATH_MAX];  // OUTPUT.suffix.old: see store_exchange
    char parent[PATH_MAX], name[NAME_MAX + 1];
    int fd; // of the folder, which is locked: nobody else writes into it; -1: not ours
} ModelFolder;

// Makes the temporary folder, where `bytes` of tensors have room, and locks it. One that a killed program left is removed.
// Errors: 2 (no such path, another program writes there), 1; after one there is nothing to end.
int model_folder_begin(ModelFolder *f, const ModelMaker *maker, const char *output, uint64_t bytes, Error *err);

// code 0: brings the folder to the disk and gives it its name. Else, and when that fails, removes it, and what was at output is
// there. Returns the code.
int model_folder_end(ModelFolder *f, int code, Error *err);

int model_folder_write_json(const ModelFolder *f, const char *name, cJSON *json, Error *err); // json is freed
int model_folder_copy(const ModelFolder *f, const char *from, const char *name, Error *err);  // nothing there: none

// config.json, in which both names that transformers has had for the type of the weights say this one (MODEL_SAME: stay). json
// is freed.
int model_folder_write_config(const ModelFolder *f, cJSON *json, ModelType type, Error *err);

typedef struct {
    SafetensorsTensor tensor; // as it is written
    const char *file;         // in which it lies
} ModelTensor;

// The name of the file in which a reader's tensor lies.
const char *model_file_of(const SafetensorsReader *reader, const SafetensorsTensor *tensor);

// The files, in the order in which their first tensors stand; put writes tensor t's bytes. Errors: put's, 2, 1.
typedef int (*ModelPut)(void *context, SafetensorsWriter *writer, int t, Error *err);
int model_folder_write_tensors(const ModelFolder *f, const ModelTensor *tensors, int count, ModelPut put, void *context,
                               Error *err);

// model.safetensors.index.json, where they do not all lie in model.safetensors.
int model_folder_write_index(const ModelFolder *f, const ModelTensor *tensors, int count, Error *err);

#ifdef __cplusplus
}
#endif
#endif
