// What a stage of a recipe changes, in words.
#ifndef LLMC_TRAIN_STAGE_CHANGE_H
#define LLMC_TRAIN_STAGE_CHANGE_H

#include <stddef.h>

#include "recipe/recipe.h"

// text = the stage's name, its steps, and what it has otherwise than the stage before it (before: in parentheses), cut to
// capacity. Of the first stage nothing is otherwise. recipe_settle has been called.
void stage_describe_change(char *text, size_t capacity, const Recipe *recipe, int stage);

#endif
