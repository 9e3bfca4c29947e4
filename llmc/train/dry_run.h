// train_llama3 --recipe FILE --dry-run: what a recipe would do, printed as tables; nothing is trained.
#ifndef LLMC_TRAIN_DRY_RUN_H
#define LLMC_TRAIN_DRY_RUN_H

#include "options/options.h"
#include "ranks/team.h"

#ifdef __cplusplus
extern "C" {
#endif

// Prints the recipe's stages (tokens, steps, batch, length, learning rate, mixture) for --ranks or as many as the team has; with a
// model their FLOPs, memory and, where --peak-tflops is given, time; and for each source the tokens that it has and that the
// recipe takes. Takes no memory of a device. Errors: 2 (recipe, configuration, data that are there), 1.
int dry_run(const Options *options, const Team *team, Error *err);

#ifdef __cplusplus
}
#endif
#endif
