#include "checkpoint/convert.h"

#include <math.h>
#include <string.h>

// Finite: not all bits of the exponent set. As arithmetic on bits these loops are ones for the vector unit.
static size_t bf16_not_finite(uint16_t bits) { return (bits & 0x7F80) == 0x7F80; }

static size_t f32_not_finite(uint32_t bits) { return (bits & 0x7F800000) == 0x7F800000; }

static float widen_half(uint16_t bits) { // IEEE 754 binary16
    int exponent = bits >> 10 & 31, fraction = bits & 1023;
    float value = exponent == 0    ? ldexpf((float)fraction, -24)
                  : exponent == 31 ? (fraction ? NAN : INFINITY)
                                   : ldexpf((float)(fraction + 1024), exponent - 25);
    return bits >> 15 ? -value : value;
}

// Of a number that was narrowed: above the largest bf16 by half of its last place or more, it has become infinite.
static size_t x_not_finite(uint32_t bits, floatX value) {
    if (sizeof value == sizeof bits) return f32_not_finite(bits);
    return f32_not_finite(bits) | bf16_not_finite((uint16_t)value);
}

// A finite value to floatX, to the nearest, of two equally near ones the even.
static floatX narrow(uint32_t bits) {
#ifdef LLMC_PRECISION_fp32
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
#else
    return (floatX)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
#endif
}

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static size_t from_f32(floatX *out, const char *raw, size_t count) {
    size_t not_finite = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, raw + 4 * i, sizeof bits);
        out[i] = narrow(bits);
        not_finite += x_not_finite(bits, out[i]);
    }
    return not_finite;
}

static size_t from_bf16(floatX *out, const char *raw, size_t count) {
    size_t not_finite = 0;
    for (size_t i = 0; i < count; i++) {
        uint16_t bits;
        memcpy(&bits, raw + 2 * i, sizeof bits);
        not_finite += bf16_not_finite(bits);
        out[i] = narrow((uint32_t)bits << 16);
    }
    return not_finite;
}

static size_t from_f16(floatX *out, const char *raw, size_t count) {
    size_t not_finite = 0;
    for (size_t i = 0; i < count; i++) {
        uint16_t bits;
        memcpy(&bits, raw + 2 * i, sizeof bits);
        uint32_t wide = bits_of(widen_half(bits));
        not_finite += f32_not_finite(wide);
        out[i] = narrow(wide);
    }
    return not_finite;
}

size_t convert_to_x(floatX *out, const void *raw, SafetensorsType type, size_t count) {
    switch (type) {
    case SAFETENSORS_F32:
        return from_f32(out, raw, count);
    case SAFETENSORS_F16:
        return from_f16(out, raw, count);
    default:
        return from_bf16(out, raw, count);
    }
}

// ---- fp32 on one side

static float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void widen(float *out, const char *raw, SafetensorsType type, size_t count) {
    uint16_t bits;
    if (type == SAFETENSORS_F32) memcpy(out, raw, count * sizeof *out);
    for (size_t i = 0; type == SAFETENSORS_BF16 && i < count; i++) {
        memcpy(&bits, raw + 2 * i, sizeof bits);
        out[i] = float_of((uint32_t)bits << 16);
    }
    for (size_t i = 0; type == SAFETENSORS_F16 && i < count; i++) {
        memcpy(&bits, raw + 2 * i, sizeof bits);
        out[i] = widen_half(bits);
    }
}

size_t convert_to_f32(float *out, const void *raw, SafetensorsType type, size_t count) {
    widen(out, raw, type, count);
    return convert_not_finite(out, count);
}

static uint16_t narrow_bf16(uint32_t bits) { return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16); }

// IEEE 754 binary16 of a finite value; from 65520 on infinite.
static uint16_t narrow_half(uint32_t bits) {
    const uint32_t sign = bits >> 16 & 0x8000, absolute = bits & 0x7FFFFFFF;
    const uint32_t half = 0x3F000000, too_large = 0x47800000, smallest_normal = 0x38800000;
    if (absolute >= too_large) return (uint16_t)(sign | 0x7C00);
    // a subnormal is a multiple of 2^-24, the last place of 0.5: adding that rounds to it
    if (absolute < smallest_normal) return (uint16_t)(sign | (bits_of(float_of(absolute) + 0.5f) - half));
    return (uint16_t)(sign | ((absolute - 0x38000000 + 0xFFF + (absolute >> 13 & 1)) >> 13));
}

size_t convert_from_f32(void *out, SafetensorsType type, const float *values, size_t count) {
    size_t not_finite = 0;
    if (type == SAFETENSORS_F32) memcpy(out, values, count * sizeof *values);
    for (size_t i = 0; type != SAFETENSORS_F32 && i < count; i++) {
        const uint32_t bits = bits_of(values[i]);
        const uint16_t narrow = type == SAFETENSORS_BF16 ? narrow_bf16(bits) : narrow_half(bits);
        not_finite += type == SAFETENSORS_BF16 ? bf16_not_finite(narrow) : (narrow & 0x7C00) == 0x7C00;
        memcpy((char *)out + 2 * i, &narrow, sizeof narrow);
    }
    return type == SAFETENSORS_F32 ? convert_not_finite(values, count) : not_finite;
}

size_t convert_not_finite(const void *raw, size_t count) {
    size_t not_finite = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, (const char *)raw + 4 * i, sizeof bits);
        not_finite += f32_not_finite(bits);
    }
    return not_finite;
}
