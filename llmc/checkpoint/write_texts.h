// The texts of a checkpoint: configurations, the tokenizer's files, the index of its tensors, the state of training.
#ifndef LLMC_CHECKPOINT_WRITE_TEXTS_H
#define LLMC_CHECKPOINT_WRITE_TEXTS_H

#include "checkpoint/writing.h"

// All that is not divided among parts. Errors: 2, 1.
int write_texts(Writing *w, Error *err);

// Those that a model needs, of the checkpoint itself or of the mean over steps in it. Errors: 2, 1.
int write_model_texts(Writing *w, Error *err);

#endif
