// A language model's folder on its way to a program that writes text.
#ifndef LLMC_GENERATE_OPEN_MODEL_H
#define LLMC_GENERATE_OPEN_MODEL_H

#include "base/error.h"
#include "model/llama3_create.h"

// Reads config.json, generation_config.json where there is one (its end tokens count too), and makes the model for one row of
// *context tokens; beyond the model's, it is cut to that. The weights are not read yet (checkpoint_read_weights).
// threads: of the CPU target, 0: all. Errors: 2 (a file's content, sizes), 1 (I/O, memory).
int open_model(Llama3 **model, LlamaConfig *config, const char *folder, int *context, int threads, Error *err);

#endif
