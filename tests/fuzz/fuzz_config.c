// A config.json: what is read can be written, reads back as the same, and gives a table of parameters.
#include <stdio.h>
#include <string.h>

#include "common.h"
#include "model/config.h"
#include "model/parameters.h"

static bool same(const LlamaConfig *a, const LlamaConfig *b) {
    return memcmp(&a->vocab_size, &b->vocab_size, 8 * sizeof(int)) == 0 && a->rms_norm_eps == b->rms_norm_eps &&
           a->rope_theta == b->rope_theta && a->initializer_range == b->initializer_range &&
           a->tie_word_embeddings == b->tie_word_embeddings && a->rope_type == b->rope_type &&
           a->rope_factor == b->rope_factor && a->rope_low_freq_factor == b->rope_low_freq_factor &&
           a->rope_high_freq_factor == b->rope_high_freq_factor &&
           a->rope_original_max_position == b->rope_original_max_position && a->bos_token_id == b->bos_token_id &&
           a->eos_token_id == b->eos_token_id && a->num_more_eos_tokens == b->num_more_eos_tokens &&
           memcmp(a->more_eos_token_ids, b->more_eos_token_ids, sizeof a->more_eos_token_ids) == 0;
}

static void write_and_read_back(const LlamaConfig *config) {
    Error err = {0};
    char path[128];
    LlamaConfig back;
    snprintf(path, sizeof path, "%s/config.json", fuzz_folder());
    fuzz_demand(llama_config_write(config, path, &err) == 0, "what was read can be written");
    fuzz_demand(llama_config_read(&back, path, &err) == 0, "what was written can be read");
    fuzz_demand(same(&back, config), "what was written reads back as the same");
    fuzz_remove("config.json");
}

static void build_table(const LlamaConfig *config) {
    Error err = {0};
    ParameterTable table;
    if (config->num_hidden_layers > 64) return; // time
    int code = parameter_table_build(&table, config, 1, NULL, &err);
    fuzz_demand_code(code, err.code, err.message);
    if (code != 0) return;
    fuzz_demand(table.num_elements >= table.num_parameters && table.num_decayed <= table.num_elements,
                "the table's sums hold");
    parameter_table_free(&table);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Error err = {0};
    LlamaConfig config;
    int code = llama_config_read(&config, fuzz_file(data, size), &err);
    fuzz_demand_code(code, err.code, err.message);
    if (code != 0) return 0;
    write_and_read_back(&config);
    build_table(&config);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    return fuzz_mutate_json(data, size, max_size, &seed);
}
