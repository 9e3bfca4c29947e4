// floatX, the type of parameters and activations: bf16, or fp32 in the build that serves the exact tests.
#ifndef LLMC_DEVICE_TYPES_H
#define LLMC_DEVICE_TYPES_H

#ifdef __cplusplus
#include <cuda_bf16.h>
#ifdef LLMC_PRECISION_fp32
typedef float floatX;
#else
typedef __nv_bfloat16 floatX;
#endif
#else
#include <stdint.h>
#ifdef LLMC_PRECISION_fp32
typedef float floatX;
#else
typedef uint16_t floatX; // the bits of a bf16
#endif
#endif

#endif
