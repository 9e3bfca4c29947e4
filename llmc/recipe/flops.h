// The arithmetic that training takes, and the peak rate of a GPU.
#ifndef LLMC_RECIPE_FLOPS_H
#define LLMC_RECIPE_FLOPS_H

#include "model/parameters.h"

#ifdef __cplusplus
extern "C" {
#endif

// FLOPs of the forward and the backward pass for a token in rows of T ("model FLOPs", Chowdhery et al. 2022, appendix B): 6
// for each weight of a matrix product, 4 where it is frozen, 2 where no gradient passes it (the embedding is looked up, not
// multiplied, unless it is the head too); and 6*T*NH*HD, or 2*T*NH*HD, for the causal attention of a layer. What
// recomputation adds is not counted; what document masks save is not subtracted.
double flops_per_token(const LlamaConfig *config, const ParameterTable *table, int T);

// Dense bf16 tensor-core FLOP/s with fp32 accumulation from the maker's data sheet; 0: the name is not known.
double flops_peak_of_device(const char *name);

#ifdef __cplusplus
}
#endif
#endif
