// The data that a recipe's sources have, and what it takes of them.
#ifndef LLMC_TRAIN_RECIPE_DATA_H
#define LLMC_TRAIN_RECIPE_DATA_H

#include "recipe/recipe.h"

#ifdef __cplusplus
extern "C" {
#endif

// Prints a table on stdout: files, tokens, tokens taken over the whole run and epochs of each source; and where a source is used
// up. Files that are there are checked, against each other too; where a source has none yet, that is said, and what it would
// give is computed from its shares. The recipe is settled. vocab_size: the model's; 0: not known. Errors: 2 (data), 1.
int recipe_print_data(const Recipe *recipe, uint64_t seed, int vocab_size, Error *err);

#ifdef __cplusplus
}
#endif
#endif
