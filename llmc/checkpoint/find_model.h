// The folder of the model that a user's DIR means.
#ifndef LLMC_CHECKPOINT_FIND_MODEL_H
#define LLMC_CHECKPOINT_FIND_MODEL_H

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

// *folder stays what was given, but for a run's folder without a model of its own: there it becomes the newest checkpoint,
// folder/checkpoint (a text that lives as long as the program). A folder that is no model is for its reader to refuse.
// Errors: 2 (no folder; a link that leads nowhere, as cp -r makes of a checkpoint), 1.
int find_model(const char **folder, Error *err);

// The same, where an adapter does not do. Errors: 2, 1.
int find_whole_model(const char **folder, Error *err);

// *path, where it is a folder, becomes the file of this name in it, or in the model that it means. Errors: 2, 1.
int find_file(const char **path, const char *name, Error *err);

// Refuses (2) a link that leads nowhere.
int find_model_check_link(const char *path, Error *err);

#ifdef __cplusplus
}
#endif
#endif
