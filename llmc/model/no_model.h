// Says what a folder is in which no model was found.
#ifndef LLMC_MODEL_NO_MODEL_H
#define LLMC_MODEL_NO_MODEL_H

#include <stdbool.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

// Does the name end as those of pickles do?
bool is_pickle_name(const char *name);

// Refuses (2) a folder that has an adapter, pickles or GGUF and no model, and says what to do. 0: it has none of these.
// Errors: 2, 1.
int explain_no_model(const char *folder, Error *err);

#ifdef __cplusplus
}
#endif
#endif
