// Where in its recipe a run is, and where in its data: what state.json keeps of it.
#ifndef LLMC_TRAIN_STAGE_PLACE_H
#define LLMC_TRAIN_STAGE_PLACE_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "loader/mixture.h"
#include "recipe/recipe.h"
#include "train/resume.h"

#ifdef __cplusplus
extern "C" {
#endif

// Steps and tokens are the run's.
typedef struct {
    Recipe *recipe;                            // NULL: a run without one, and all else is unset
    int stage;                                 // in the recipe
    int64_t first_step, first_token, end_step; // of the stage: those before it, and the steps when it ends
    bool ended_early;                          // its conditions held: end_step is where they did
    int64_t span_step, span_end;               // likewise of the mixture's running span (loader/mixture.h)
    cJSON *span;                               // what else its rows depend on
    bool *used_up;                             // [sources] may not be read once more, and the user was told
    double *epochs;                            // [sources] how often each was read up to the last step's end
    MixtureCursor *began, *now;                // [sources] where the span began, and where the last step ended
} StagePlace;

// *place = the run's beginning, and takes over the recipe, which is settled. Errors: 1 (memory). stage_place_free is to be
// called in any case.
int stage_place_begin(StagePlace *place, Recipe *recipe, Error *err);
void stage_place_free(StagePlace *place); // {0} is allowed

const Stage *stage_place_stage(const StagePlace *place); // NULL without a recipe

// That stage begins after so many steps and tokens.
void stage_place_enter(StagePlace *place, int stage, int64_t step, int64_t tokens);

// Settles the span that begins at span_step: to the stage's end or, where it may end early, to the next check. weights and
// weights_at_end [sources] (=) are the shares at its both ends. Returns its rows.
int64_t stage_place_span(StagePlace *place, double *weights, double *weights_at_end);

int64_t stage_place_steps(const StagePlace *place); // of the whole run, if no stage from now on ends early

void stage_place_add(cJSON *root, const StagePlace *place); // and the recipe, to state.json

// Takes the resumed checkpoint's (=) into a place that stage_place_begin made; the stage is known by its name. Where the recipe
// was changed in what the running span depends on, a new one begins after the checkpoint's step. Errors: 2.
int stage_place_take(StagePlace *place, const Resume *resume, Error *err);

#ifdef __cplusplus
}
#endif
#endif
