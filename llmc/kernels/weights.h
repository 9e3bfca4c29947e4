// Initial values of parameters, master weights from parameters, and parameters from those.
#ifndef LLMC_KERNELS_WEIGHTS_H
#define LLMC_KERNELS_WEIGHTS_H

#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>

#include "device/types.h"

#ifdef __cplusplus
extern "C" {
#endif

// params[n] = normal with standard deviation std, rounded; master[count] = elements [first, first + count) of them in
// full. Element i depends on (seed, stream_id, i) alone, so any order of work, and any division, gives the same values.
void weights_init_normal(floatX *params, float *master, size_t first, size_t count, size_t n, float std, uint64_t seed,
                         uint32_t stream_id, cudaStream_t stream);

// The same, uniform in (-bound, bound).
void weights_init_uniform(floatX *params, float *master, size_t first, size_t count, size_t n, float bound,
                          uint64_t seed, uint32_t stream_id, cudaStream_t stream);

// params[n], master[count] = value.
void weights_init_constant(floatX *params, float *master, size_t first, size_t count, size_t n, float value,
                           cudaStream_t stream);

// master[n] = params[n], widened.
void weights_widen(float *master, const floatX *params, size_t n, cudaStream_t stream);

// params[n] = master[n], rounded to floatX.
void weights_narrow(floatX *params, const float *master, size_t n, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
