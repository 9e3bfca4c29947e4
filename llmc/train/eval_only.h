// train_llama3 --eval-only: a model is scored, nothing is trained.
#ifndef LLMC_TRAIN_EVAL_ONLY_H
#define LLMC_TRAIN_EVAL_ONLY_H

#include "options/options.h"
#include "ranks/team.h"

#ifdef __cplusplus
extern "C" {
#endif

// Scores the model of --init-from on --eval-tasks and --val-data, prints the results, and logs them in the folder of --output,
// if one is given. Takes memory for the parameters and one block's activations. Errors: 2, 1.
int eval_only(const Options *options, const Team *team, Error *err);

#ifdef __cplusplus
}
#endif
#endif
