// What a run is to learn: --task.
#ifndef LLMC_TRAIN_TASK_H
#define LLMC_TRAIN_TASK_H

#include <stdbool.h>

typedef struct {
    bool new_head;      // the model gets a reward head, which the weights to begin with lack
    const char *origin; // folder of the model that is trained on with its own tokenizer; NULL: none
    // log-probabilities of the answers in the training and validation set under the reference model; NULL: the loss needs none
    float *ref_logprobs, *val_ref_logprobs;
} Task;

#endif
