// The address of shared memory as PTX instructions take it.
#ifndef LLMC_DEVICE_PTX_SHARED_ADDRESS_H
#define LLMC_DEVICE_PTX_SHARED_ADDRESS_H

#ifndef LLMC_TARGET_CPU

#include <cuda_runtime.h>
#include <stdint.h>

__device__ __forceinline__ uint32_t shared_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

#endif
#endif
