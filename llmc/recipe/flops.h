// How much arithmetic training takes, and how much a GPU could do.
#ifndef LLMC_RECIPE_FLOPS_H
#define LLMC_RECIPE_FLOPS_H

#include "model/parameters.h"

#ifdef __cplusplus
extern "C" {
#endif

// FLOPs that forward and backward need for a token in rows of T: 6 for each weight of a matrix product (the
// embedding is looked up, not multiplied, unless it is the head too; 4 where it is frozen, 2 where no gradient passes it),
// and causal attention, 6*T*NH*HD a layer, or 2*T*NH*HD. What recomputation adds is not counted, and what document masks spare is: "model FLOPs" (Chowdhery
// et al. 2022, appendix B).
double flops_per_token(const LlamaConfig *config, const ParameterTable *table, int T);

// Dense bf16 tensor-core FLOP/s with fp32 accumulation from the maker's data sheet; 0: the name is not known.
double flops_peak_of_device(const char *name);

#ifdef __cplusplus
}
#endif
#endif
