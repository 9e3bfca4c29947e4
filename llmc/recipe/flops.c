#include "recipe/flops.h"

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
    if (strncmp(name, "CPU", 3) == 0) return 0; // their models' names may have one of these in them
    for (size_t i = 0; i < sizeof peaks / sizeof peaks[0]; i++)
        if (strstr(name, peaks[i].name)) return 1e12 * peaks[i].teraflops;
    return 0;
}

// Norm weights are too few to count, and rows of an embedding that is no head are looked up.
static bool is_multiplied(const ParameterTable *table, const ParameterTensor *t) {
    return t->dims == 1 || t->offset != table->embedding || table->head == table->embedding;
}

// Operations for each weight: forward, and where they are needed the gradient of the input and its own.
static double passes(const ParameterTable *table, const ParameterTensor *t) {
    const bool input = t->depth > table->lowest || t->offset == table->embedding; // that as a tied head
    return 2 + (input ? 2 : 0) + (t->offset < table->num_trained_elements ? 2 : 0);
}

double flops_per_token(const LlamaConfig *config, const ParameterTable *table, int T) {
    const double attention = (double)config->num_attention_heads * config->head_dim * T;
    double flops = 0;
    for (const ParameterTensor *t = table->tensors; t < table->tensors + table->count; t++)
        if (is_multiplied(table, t)) flops += passes(table, t) * (double)t->rows * t->cols;
    for (int l = 0; l < config->num_hidden_layers; l++) flops += (table->lowest <= 2 * l ? 6 : 2) * attention;
    return flops;
}
