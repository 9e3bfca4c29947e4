#include "train/flops.h"

#include <string.h>

// Dense bf16 rates with fp32 sums, in TFLOP/s, as recalled from makers' data sheets: neither measured nor checked
// (--peak-tflops overrides). The first entry whose text stands in the device's name counts, so the longer names come first.
static const struct {
    const char *name;
    double teraflops;
} peaks[] = {
    {"B200", 2250},    {"H200", 989},      {"H100 NVL", 835},     {"H100 PCIe", 756}, {"H100", 989},
    {"GH200", 989},    {"A100", 312},      {"A10G", 70},          {"A10", 125},       {"L40S", 362},
    {"L40", 181},      {"L4", 121},        {"RTX 6000 Ada", 364}, {"RTX A6000", 155}, {"RTX 5090", 210},
    {"RTX 4090", 165}, {"RTX 4080", 97.5}, {"RTX 3090", 71},
};

double flops_peak_of_device(const char *name) {
    for (size_t i = 0; i < sizeof peaks / sizeof peaks[0]; i++)
        if (strstr(name, peaks[i].name)) return 1e12 * peaks[i].teraflops;
    return 0;
}

double flops_per_token(const LlamaConfig *config, const ParameterTable *table, int T) {
    double multiplied = (double)table->num_parameters;
    if (!config->tie_word_embeddings || config->num_labels) multiplied -= (double)config->vocab_size * config->hidden_size;
    double attention = (double)config->num_hidden_layers * config->num_attention_heads * config->head_dim * T;
    return 6 * multiplied + 6 * attention;
}
