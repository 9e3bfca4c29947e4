// Options that average_llama3 and merge_lora share.
#ifndef LLMC_TOOLS_TOOL_OPTIONS_H
#define LLMC_TOOLS_TOOL_OPTIONS_H

#include "checkpoint/model_folder.h"

// Each takes the option's text. Errors: 2.
int tool_take_folder(const char **folder, const char *option, const char *text, Error *err);
int tool_take_type(ModelType *type, const char *text, Error *err); // --dtype

#endif
