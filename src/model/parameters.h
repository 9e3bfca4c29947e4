// The one table of a model's parameter tensors: name, shape, place, decay, initialisation. Init, load, save, decay,
// norm and sharding all walk it.
//
// Every flat array of the model (parameters, gradients, master weights, moments) has the same layout: a tensor's
// elements stand at `offset`, row-major. Matrices come first, norm weights last, so that weight decay is one range.
// q, k and v stand side by side and so form one matrix for the product; gate and up likewise.
#ifndef LLMC_MODEL_PARAMETERS_H
#define LLMC_MODEL_PARAMETERS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "model/config.h"

typedef enum {
    INIT_NORMAL,   // normal, standard deviation initializer_range
    INIT_RESIDUAL, // the same divided by sqrt(2 * layers): the projections that write into the residual stream
    INIT_ONES,     // norm weights
} ParameterInit;

typedef struct {
    char name[96];   // Hugging Face's
    int dims;        // 2: [rows, cols]; 1: [cols], rows is 1
    int rows, cols;  // as in a checkpoint
    int padded_rows; // rows in the arrays: the vocabulary is padded; the rest are zeros and stay zeros
    size_t offset;   // in elements, the same in every flat array; a multiple of PARAMETER_ALIGN
    bool decay;
    ParameterInit init;
} ParameterTensor;

// Where the tensors that the training step uses lie (offsets in elements).
typedef struct {
    size_t attention_norm, qkv, output, ffn_norm, gate_up, down;
} LayerOffsets;

typedef struct {
    ParameterTensor *tensors;
    int count;
    size_t num_elements;   // of each flat array
    size_t num_decayed;    // elements [0, num_decayed) are decayed, the others not
    size_t num_parameters; // without padding, tied ones once
    int padded_vocab;
    size_t embedding, head, final_norm; // offsets; head == embedding when tied
    LayerOffsets *layers;
} ParameterTable;

enum {
    PARAMETER_ALIGN = 128, // elements
    VOCAB_ALIGN = 128,     // rows
};

// Fills *table for the configuration (checked before by llama_config_read). Free with parameter_table_free. Errors: 2
// (a size that the kernels cannot work with), 1 (memory).
int parameter_table_build(ParameterTable *table, const LlamaConfig *config, Error *err);
void parameter_table_free(ParameterTable *table);

// NULL: no such tensor.
const ParameterTensor *parameter_table_find(const ParameterTable *table, const char *name);

#endif
