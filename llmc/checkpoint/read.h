// What read.c (parameters) and read_training.c (the optimizer's state) share.
#ifndef LLMC_CHECKPOINT_READ_H
#define LLMC_CHECKPOINT_READ_H

#include "checkpoint/safetensors.h"
#include "model/llama3_create.h"

// Parameters alone: master weights stay as they are. Errors: as checkpoint_read_weights.
int read_parameters(const char *folder, Llama3 *m, Error *err);

// Returns 2: so many of a tensor's `all` values are not finite.
int read_fail_not_finite(const SafetensorsReader *reader, const SafetensorsTensor *tensor, size_t not_finite,
                         size_t all, Error *err);

// The mean over steps in the parts of a checkpoint, which may be in the making: the files of all ranks are there. Opening
// checks that they hold each element once. values[count] = elements [first, first + count) of a parameter, by its index in the
// table. Errors: 2, 1.
typedef struct TrainingParts TrainingParts;
int average_parts_open(TrainingParts **out, const char *folder, const ParameterTable *table, Error *err);
int average_parts_read(const TrainingParts *p, int index, size_t first, size_t count, float *values, Error *err);
void average_parts_close(TrainingParts *p); // NULL is allowed

#endif
