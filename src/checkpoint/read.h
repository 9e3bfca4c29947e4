// What read.c (parameters) and read_training.c (the optimizer's state) share.
#ifndef LLMC_CHECKPOINT_READ_H
#define LLMC_CHECKPOINT_READ_H

#include "checkpoint/safetensors.h"
#include "model/llama3.h"

// Parameters alone: master weights stay as they are. Errors: as checkpoint_read_weights.
int read_parameters(const char *folder, Llama3 *m, Error *err);

// Returns 2: so many of a tensor's `all` values are not finite.
int read_fail_not_finite(const SafetensorsReader *reader, const SafetensorsTensor *tensor, size_t not_finite,
                         size_t all, Error *err);

#endif
