// The stages of a recipe (recipe/recipe.h) in a run. At a stage's first step its values become the run's options, the model takes
// its shape, and the mixture begins its span; everything else reads options and asks nothing about stages. Without --recipe these
// functions do nothing, or what is said of it.
#ifndef LLMC_TRAIN_STAGES_H
#define LLMC_TRAIN_STAGES_H

#include "train/trainer.h"

#ifdef __cplusplus
extern "C" {
#endif

// Reads --recipe and settles it for ranks and model, finds the stage in which the run begins or goes on, and gives options and
// configuration that stage's values. To come before data and model are opened. Each rank for itself. Errors: 2, 1.
int stages_open(Trainer *t, Error *err);

// Opens what later stages need, to refuse it before the first step: validation data, evaluations, sources that last to the end.
// Then begins the mixture where the run does. Each rank for itself. Errors: 2, 1.
int stages_begin(Trainer *t, Error *err);

// Gives the configuration (=) the stage's RoPE and, where rows are longer up to there, their length.
void stages_configure(LlamaConfig *config, const StagePlace *place);

// The shapes of all stages, for RunShape.rows, to be freed by the caller. *count = how many; 0: without a recipe.
RowShape *stages_rows(const Trainer *t, int *count);

bool stages_average(const Recipe *recipe); // whether any stage averages the weights; recipe NULL is allowed

void stages_pace(Trainer *t); // tells the progress line what a step, and the stages to come, have to compute

// ---- before a step

// To be called before a step's batches are read: where a stage begins, the run becomes that stage's. No step is pending then
// (observe_at_once). Collective. Errors: 2, 1.
int stages_follow(Trainer *t, Error *err);

double stages_lr(const Trainer *t); // of the coming update: the recipe's, or --schedule's

// ---- after a step

// Notes how far the sources are read now, and tells which are used up.
void stages_note_position(Trainer *t);

#ifdef __cplusplus
}
#endif
#endif
