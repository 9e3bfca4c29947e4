#ifndef LLMC_BASE_TEXT_H
#define LLMC_BASE_TEXT_H

#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

// UTF-8's byte order mark, which some editors put in front of a text.
#define TEXT_MARK "\xEF\xBB\xBF"

static inline bool text_ends_with(const char *text, const char *end) {
    const size_t length = strlen(text), tail = strlen(end);
    return length >= tail && strcmp(text + length - tail, end) == 0;
}

// text [2 count + 1] = lower-case hexadecimal digits, two a byte, and a zero.
static inline void text_hex(char *text, const uint8_t *bytes, size_t count) {
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < count; i++) {
        text[2 * i] = digits[bytes[i] >> 4];
        text[2 * i + 1] = digits[bytes[i] & 15];
    }
    text[2 * count] = 0;
}

enum { TEXT_FINGERPRINT_SIZE = 17 };

// text = 16 lower-case hexadecimal digits.
static inline void text_fingerprint(char text[TEXT_FINGERPRINT_SIZE], uint64_t fingerprint) {
    snprintf(text, TEXT_FINGERPRINT_SIZE, "%016" PRIx64, fingerprint);
}

#endif
