// A recipe's stages as tables of at most 100 columns, on stdout. The recipe is settled (recipe_settle).
#ifndef LLMC_TRAIN_RECIPE_TABLES_H
#define LLMC_TRAIN_RECIPE_TABLES_H

#include "recipe/recipe.h"

#ifdef __cplusplus
extern "C" {
#endif

void recipe_print_stages(const Recipe *recipe);   // tokens, steps, batch, length, learning rate
void recipe_print_mixtures(const Recipe *recipe); // shares of the sources
void recipe_print_rest(const Recipe *recipe);     // RoPE, evaluations, averaging: what a stage says of them anew

void recipe_print_name(const char *text); // of a stage or source: the first 18 characters, in 20 columns

#ifdef __cplusplus
}
#endif
#endif
