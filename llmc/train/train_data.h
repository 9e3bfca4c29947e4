// A run's training and validation data, and the tokenizer that made them.
#ifndef LLMC_TRAIN_TRAIN_DATA_H
#define LLMC_TRAIN_TRAIN_DATA_H

#include <limits.h>

#include "loader/loader.h"
#include "loader/tokenizer.h"
#include "options/options.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    Loader *train, *val;                             // val: NULL without --val-data
    Tokenizer *tokenizer;                            // NULL: shards of llm.c, and none was given
    char train_shard[PATH_MAX], val_shard[PATH_MAX]; // the first file of each
    char tokenizer_path[PATH_MAX];                   // the file in use; "": none
    double unigram_loss;                             // a unigram model's loss on the validation data; NAN: not known
} TrainData;

// Opens --train-data, --val-data and the tokenizer. spec: of the training data. model_folder: where else to look for a tokenizer
// of llm.c's shards, which name none; NULL: nowhere. vocab_size: the model's. Errors: 2, 1. Call train_data_close in any case.
int train_data_open(TrainData *data, const Options *options, const LoaderSpec *spec, const char *model_folder,
                    int vocab_size, Error *err);

// Prints how many rows of a set were left out as too long, and the first of them, if there are any. option: the one that names
// the set.
void train_data_print_skipped(const Loader *loader, const char *option, int T);

void train_data_close(TrainData *data);

#ifdef __cplusplus
}
#endif
#endif
