// The safetensors files of a checkpoint's part.
#ifndef LLMC_CHECKPOINT_WRITE_TENSORS_H
#define LLMC_CHECKPOINT_WRITE_TENSORS_H

#include "checkpoint/writing.h"

// This part's tensors of the model, if it has any, and its shard of the optimizer's state. Errors: 2, 1.
int write_parameters(Writing *w, Error *err);
int write_training(Writing *w, Error *err);

// The whole model with the mean over steps for its weights, out of the parts of all ranks, which are written. Errors: 2, 1.
int write_averaged(Writing *w, const char *name, Error *err);

#endif
