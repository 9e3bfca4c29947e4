// What a run trains and validates on, and the tokenizer that made it.
#ifndef LLMC_TRAIN_TRAIN_DATA_H
#define LLMC_TRAIN_TRAIN_DATA_H

#include <limits.h>
#include "loader/loader.h"
#include "loader/tokenizer.h"

typedef struct {
    Loader *train, *val;                             // val: NULL without --val-data
    Tokenizer *tokenizer;                            // NULL: shards of llm.c, and none was given
    char train_shard[PATH_MAX], val_shard[PATH_MAX]; // the first file of each
    char tokenizer_path[PATH_MAX];                   // the file in use; "": none
    double unigram_loss;                             // a unigram model's loss on the validation data; NAN: not known
} TrainData;

#endif
