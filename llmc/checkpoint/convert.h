// Conversion between the types of numbers in safetensors files and floatX.
#ifndef LLMC_CHECKPOINT_CONVERT_H
#define LLMC_CHECKPOINT_CONVERT_H

#include "checkpoint/safetensors.h"
#include "device/types.h"

#ifdef __cplusplus
extern "C" {
#endif

// out[count] = raw[count] of that type, rounded to nearest even. raw need not be aligned. Returns how many are not finite,
// or became infinite as floatX.
size_t convert_to_x(floatX *out, const void *raw, SafetensorsType type, size_t count);

// The same to fp32, which holds every value of these types. Returns how many are not finite.
size_t convert_to_f32(float *out, const void *raw, SafetensorsType type, size_t count);

// out[count], of that type and not necessarily aligned, = values[count], rounded as above. Returns how many are not
// finite there.
size_t convert_from_f32(void *out, SafetensorsType type, const float *values, size_t count);

// Returns how many of raw[count], F32 and not necessarily aligned, are not finite.
size_t convert_not_finite(const void *raw, size_t count);

#ifdef __cplusplus
}
#endif
#endif
