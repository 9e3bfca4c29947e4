// What the files of the trainer share: trainer_open.c (parts, summary), trainer_step.c (the step and what is observed
// after it), trainer_save.c (weights in, output folder, checkpoint).
#ifndef LLMC_TRAIN_TRAINER_INTERNAL_H
#define LLMC_TRAIN_TRAINER_INTERNAL_H

#include <limits.h>
#include <stdint.h>

#include "data/loader.h"
#include "data/tokenizer.h"
#include "model/llama3.h"
#include "train/log.h"
#include "train/progress.h"
#include "train/schedule.h"
#include "train/trainer.h"

struct Trainer {
    Options options;
    LlamaConfig config;
    Loader *train, *val; // val: NULL where there is none
    Tokenizer *tokenizer;
    char train_shard[PATH_MAX], tokenizer_path[PATH_MAX]; // the first shard; the file in use
    double unigram_loss;                                  // of the validation data, NAN: not known
    Llama3 *model;
    Schedule schedule;
    Log log;
    Progress progress;
    int64_t step;                       // updates done
    ProgressState state;                // what the last step gave
    double tokens_per_second;           // of the last step
    double flops_per_token, peak_flops; // 0: not known
    double began, after_first_step;     // seconds, monotonic clock
    float *logits;                      // [vocab_size], for sampling
    int32_t *sample_ids;                // [sample_tokens]
};

// Seconds of the monotonic clock.
double trainer_now(void);

#endif
