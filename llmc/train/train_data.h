// A run's training and validation data, and the tokenizer that made them.
#ifndef LLMC_TRAIN_TRAIN_DATA_H
#define LLMC_TRAIN_TRAIN_DATA_H

#include <limits.h>

#include "loader/loader.h"
#include "loader/mixture.h"
#include "loader/tokenizer.h"
#include "recipe/recipe.h"
#include "train/run.h"
#include "train/train_state.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const char *source; // of the recipe; NULL: --val-data
    Loader *loader;
} ValidationSet;

typedef struct {
    Loader *train;    // NULL with a recipe, whose sources are
    Mixture *mixture; // else NULL
    int num_sources;  // of the mixture
    ValidationSet *val;
    int num_val;                                     // 0: no validation data
    Tokenizer *tokenizer;                            // NULL: shards of llm.c, and none was given
    char train_shard[PATH_MAX], val_shard[PATH_MAX]; // the first file of each
    char tokenizer_path[PATH_MAX];                   // the file in use; "": none
    double unigram_loss;                             // a unigram model's loss on the validation data; NAN: not known
} TrainData;

// Opens --train-data and --val-data, or (recipe not NULL) the recipe's sources, and the tokenizer. spec: of the training data.
// model_folder: where else to look for a tokenizer of llm.c's shards, which name none; NULL: nowhere. vocab_size: the model's.
// Errors: 2, 1. Call train_data_close in any case.
int train_data_open(TrainData *data, const Options *options, const Recipe *recipe, const LoaderSpec *spec,
                    const char *model_folder, int vocab_size, Error *err);

// Opens the validation sets of the recipe's sources anew, which train_data_open found to be no training data: for rows of other
// lengths or number, or another mask. Errors: 2, 1.
int train_data_reopen_validation(TrainData *data, const Recipe *recipe, const LoaderSpec *spec, int vocab_size,
                                 Error *err);

// Overwrites (=) the batch with this rank's micro-batch `micro` of the step that comes after those of the state. Errors:
// loader_fetch's.
int train_data_fetch(TrainData *data, const Run *run, const TrainState *state, int micro, Batch *out, Error *err);

uint64_t train_data_fingerprint(const TrainData *data); // of all training files (loader_fingerprint)
uint64_t train_data_val_fingerprint(const TrainData *data);
uint32_t train_data_bos_id(const TrainData *data); // begins a document; SHARD_NO_ID: none
uint32_t train_data_eos_id(const TrainData *data); // ends one; likewise

// Prints how many rows of a set were left out as too long, and the first of them, if there are any. option: the one that names
// the set.
void train_data_print_skipped(const Loader *loader, const char *option, int T);

void train_data_close(TrainData *data);

#ifdef __cplusplus
}
#endif
#endif
