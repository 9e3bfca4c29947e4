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

size_t convert_not_finite(const void *raw, size_t count) {
    size_t not_finite = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, (const char *)raw + 4 * i, sizeof bits);
        not_finite += f32_not_finite(bits);
    }
    return not_finite;
}
