// PEFT's adapter_config.json of LoRA adapters.
#ifndef LLMC_CHECKPOINT_ADAPTER_H
#define LLMC_CHECKPOINT_ADAPTER_H

#include <stdbool.h>

#include "model/parameters.h"

#ifdef __cplusplus
extern "C" {
#endif

#define ADAPTER_CONFIG "adapter_config.json"

// The text for these adapters of a model in the folder `base`, to be freed by cJSON_free. A reward model's head is one of
// modules_to_save. NULL: no memory.
char *adapter_config_text(const ParameterTable *table, const LlamaConfig *config, const char *base);

typedef struct {
    int rank;
    double scale;    // of an adapter: alpha / rank, or alpha / sqrt(rank) with use_rslora
    bool reward;     // modules_to_save has the head of a reward model
    char base[4096]; // base_model_name_or_path; "": none
} AdapterConfig;

// Reads folder/adapter_config.json of any plain LoRA. What would change the merged weights and is not implemented (other kinds
// of adapters, DoRA, biases, ranks or alphas by pattern, other modules saved whole) is refused by its name. Errors: 2, 1.
int adapter_config_read(AdapterConfig *config, const char *folder, Error *err);

#ifdef __cplusplus
}
#endif
#endif
