// The one table of a model's parameter tensors: name, shape, place, decay, initialisation. Init, load, save, decay,
// norm and sharding all walk it.
//
// Every flat array of the model (parameters, gradients, master weights, moments) has the same layout: a tensor's
// elements begin at `offset`, row-major. Matrices come first and norm weights last, so that weight decay is one range.
// q, k and v lie side by side and so form one matrix for the product, a unit; gate and up likewise; every other tensor is
// a unit of its own.
//
// Where only a part is trained, units without a trained tensor lie after all others, and among the parameters alone:
// gradients, master weights and moments end before them. Norm weights, which are few, and frozen tensors of a trained unit
// do have gradients, but they are not in the trained ranges, which the gradient norm and the update go over.
//
// The flat arrays consist of buckets: the embedding, each layer's matrices, the head if it is not tied, and all norm
// weights. A reward model's head is score.weight [1, C]; it takes the place of lm_head and is never tied.
// A bucket's gradients are complete at one moment of the backward pass, and are reduced over the ranks as one; its
// parameters are gathered as one. Each bucket is divided into `shards` equal pieces. Shard s owns the s-th piece of every
// bucket, and its training arrays (master weights, moments) hold these pieces one after the other.
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
    INIT_KAIMING,  // uniform within 1 / sqrt(cols) of 0: lora_A, as PEFT draws it (kaiming_uniform_ with a = sqrt(5))
    INIT_ZEROS,    // lora_B: an adapter begins without effect
} ParameterInit;

// What of a model is trained. {0}: everything. With lora_rank > 0 only adapters (Hu et al. 2021) and a reward model's head:
// y = x W^T + lora_alpha / lora_rank * (x A^T) B^T for the projections named.
typedef struct {
    const char *only; // patterns (fnmatch) of tensors' names, separated by commas; NULL: all tensors
    int lora_rank;    // a multiple of LORA_RANK_UNIT; 0: no adapters
    double lora_alpha;
    const char *lora_targets; // "q_proj,v_proj", in any order; NULL: all seven
} TrainedPart;

// A row of lora_rank elements must be whole units of 16 bytes, in which tensor cores and kernels read rows.
enum { LORA_RANK_UNIT = 8, LORA_MAX_RANK = 1024, LAYER_PROJECTIONS = 7 };

typedef struct {
    char name[96];   // Hugging Face's
    int dims;        // 2: [rows, cols]; 1: [cols], rows is 1
    int rows, cols;  // as in a checkpoint
    int padded_rows; // rows in the arrays: the vocabulary is padded; the rest are zeros and stay zeros
    size_t offset;   // in elements, the same in every flat array; a multiple of PARAMETER_ALIGN
    size_t end;      // of the padding after it, where the next tensor begins
    bool decay;
    ParameterInit init;
    bool trained;
    int bucket; // also of a frozen tensor, which does not lie there
    int unit;   // tensors of one matrix product have the same number
    int depth;  // how far down the backward pass must go for its gradient (as ParameterTable.lowest)
} ParameterTensor;

// A layer's matrix products.
typedef enum { UNIT_QKV, UNIT_OUTPUT, UNIT_GATE_UP, UNIT_DOWN, LAYER_UNITS } LayerUnit;

// lora_A [rank, in] and lora_B [out, rank] of a projection, which makes columns [first, first + out) of its unit's product.
typedef struct {
    LayerUnit unit;
    int in, out, first;
    size_t a, b; // offsets
} LoraAdapter;

// Where the tensors that the training step uses lie (offsets in elements).
typedef struct {
    size_t attention_norm, qkv, output, ffn_norm, gate_up, down;
    LoraAdapter adapters[LAYER_PROJECTIONS];
    int num_adapters;
} LayerOffsets;

typedef struct {
    size_t begin, end; // elements; end - begin is a multiple of shards * PARAMETER_ALIGN, 0 where all is frozen
    bool decay;        // of all its tensors
    char label[32];    // for people: "layer 3"
} ParameterBucket;

// Elements [begin, end) of a bucket are trained: tensors and the padding after them.
typedef struct {
    int bucket;
    size_t begin, end; // multiples of PARAMETER_ALIGN
} ParameterRange;

// What a shard owns of a trained tensor.
typedef struct {
    size_t first, count; // elements [first, first + count) of the tensor, row-major, without padding; count 0: nothing
    size_t at;           // where they begin in the shard's training arrays
} ParameterPiece;

typedef struct {
    ParameterTensor *tensors;
    int count;
    int shards;
    ParameterBucket *buckets;
    int num_buckets, head_bucket, norm_bucket; // bucket 0: embedding (and tied head), 1 + l: layer l
    ParameterRange *ranges;                    // all that are trained, in the order of buckets
    int num_ranges;
    int lowest; // of the trained tensors' depths: -1 embedding, 2 l attention of layer l, 2 l + 1 its FFN, 2 L final norm,
                // 2 L + 1 head
    size_t num_shard_elements;   // of each training array of a shard
    size_t num_trained_elements; // of the gradients; of the parameters, units that are trained and norm weights
    size_t num_elements;         // of the parameters
    size_t num_decayed;          // elements [0, num_decayed) are decayed, other trained ones not
    size_t num_parameters;       // without padding, tied ones once
    size_t num_trained;          // of them
    int padded_vocab;
    size_t embedding, head, final_norm; // offsets; head == embedding when tied
    LayerOffsets *layers;
    int lora_rank; // 0: no adapters
    double lora_alpha;
    bool lora_targets[LAYER_PROJECTIONS]; // in the order of lora_target_name
} ParameterTable;

enum {
    PARAMETER_ALIGN = 128, // elements
    VOCAB_ALIGN = 128,     // rows
};

// Fills *table for the configuration (checked before by llama_config_read), divided among `shards` >= 1 ranks. part: what is
// trained, NULL: everything. Adapters have the names that PEFT gives them in a file. Free with parameter_table_free.
// Errors: 2 (a size that the kernels cannot work with, a pattern that matches nothing, an unknown projection), 1 (memory).
int parameter_table_build(ParameterTable *table, const LlamaConfig *config, int shards, const TrainedPart *part,
                          Error *err);
void parameter_table_free(ParameterTable *table);

// 0 <= shard < table->shards. Nothing of a frozen tensor.
ParameterPiece parameter_piece(const ParameterTable *table, int tensor, int shard);

// 0 <= projection < LAYER_PROJECTIONS: "q_proj", "k_proj" and so on.
const char *lora_target_name(int projection);

bool parameter_is_adapter(const ParameterTensor *t);

// Of the tensor as a checkpoint has it: without padding.
static inline size_t parameter_elements(const ParameterTensor *t) { return (size_t)t->rows * (size_t)t->cols; }

// NULL: no such tensor.
const ParameterTensor *parameter_table_find(const ParameterTable *table, const char *name);

#endif
