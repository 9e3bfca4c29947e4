// PEFT's adapter_config.json of the LoRA adapters that training makes. (Any adapter's is read by merge_config.c.)
#ifndef LLMC_CHECKPOINT_ADAPTER_H
#define LLMC_CHECKPOINT_ADAPTER_H

#include "model/parameters.h"

#ifdef __cplusplus
extern "C" {
#endif

// Returns the text for these adapters of the model in the folder `base`, to be freed by cJSON_free; a reward model's head is
// listed in modules_to_save. NULL: no memory.
char *adapter_config_text(const ParameterTable *table, const LlamaConfig *config, const char *base);

#ifdef __cplusplus
}
#endif
#endif
