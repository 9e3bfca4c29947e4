#include "loader/token_decoder.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { MAX_STRIP = 64 };

static const char blank_sign[] = "\xE2\x96\x81";

// In the order in which the parts of a decoder must stand.
typedef enum { NOTHING, TOKENS, BYTES, FUSED, STRIPPED } Stage;

typedef struct {
    TokenDecoder *decoder;
    Stage stage;
    char names[200]; // of the parts, for the message
} Reading;

static const char *text_of(const cJSON *object, const char *name) {
    const cJSON *item = json_get(object, name);
    return cJSON_IsString(item) ? item->valuestring : "";
}

static bool replaces_blanks(const cJSON *part) {
    const cJSON *pattern = json_get(part, "pattern");
    return strcmp(text_of(pattern, "String"), blank_sign) == 0 && strcmp(text_of(part, "content"), " ") == 0;
}

static bool take_metaspace(TokenDecoder *decoder, const cJSON *part) {
    decoder->first_without =
        strcmp(text_of(part, "prepend_scheme"), "never") != 0 && !cJSON_IsFalse(json_get(part, "add_prefix_space"));
    return strcmp(text_of(part, "replacement"), blank_sign) == 0;
}

static bool take_strip(TokenDecoder *decoder, const cJSON *part) {
    uint64_t start, stop;
    if (!json_is_count(json_get(part, "start"), MAX_STRIP, &start) || !json_is_count(json_get(part, "stop"), 0, &stop))
        return false;
    decoder->strip = (int)start;
    return strcmp(text_of(part, "content"), " ") == 0;
}

// Does the part fit after those before it?
static bool take_part(Reading *reading, const cJSON *part) {
    TokenDecoder *decoder = reading->decoder;
    const char *type = text_of(part, "type");
    Stage before = reading->stage;
    if (strcmp(type, "Fuse") == 0) {
        reading->stage = FUSED;
        return before > NOTHING && before <= FUSED;
    }
    if (strcmp(type, "ByteFallback") == 0) {
        reading->stage = BYTES;
        return decoder->byte_fallback = before <= TOKENS && !decoder->byte_level;
    }
    if (strcmp(type, "Strip") == 0) {
        reading->stage = STRIPPED;
        return before == FUSED && !decoder->byte_level && take_strip(decoder, part);
    }
    reading->stage = TOKENS;
    if (before != NOTHING) return false;
    if (strcmp(type, "ByteLevel") == 0) return decoder->byte_level = true;
    decoder->blanks = true;
    if (strcmp(type, "Metaspace") == 0) return take_metaspace(decoder, part);
    return strcmp(type, "Replace") == 0 && replaces_blanks(part);
}

static void add_name(Reading *reading, const cJSON *part) {
    size_t used = strlen(reading->names);
    const char *type = text_of(part, "type");
    snprintf(reading->names + used, sizeof reading->names - used, "%s%.40s", used ? ", " : "",
             *type ? type : "missing");
}

static bool take(Reading *reading, const cJSON *part) {
    bool good = true;
    if (strcmp(text_of(part, "type"), "Sequence") != 0) {
        add_name(reading, part);
        return take_part(reading, part);
    }
    const cJSON *inner = NULL;
    cJSON_ArrayForEach(inner, json_get(part, "decoders")) {
        if (!take(reading, inner)) good = false; // all are named
    }
    return good;
}

int token_decoder_read(TokenDecoder *out, const cJSON *json, const char *path, Error *err) {
    *out = (TokenDecoder){0};
    Reading reading = {.decoder = out};
    if (take(&reading, json) && (out->byte_level || out->blanks)) return 0;
    return fail_input(err,
                      "%s: decoder is %s, expected ByteLevel, Metaspace, or Replace (\"%s\" by a blank), ByteFallback, "
                      "Fuse, Strip (of blanks at the left)",
                      path, reading.names[0] ? reading.names : "empty", blank_sign);
}

static int digit_value(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int token_decoder_byte(const char *token, size_t length) {
    if (length != 6 || memcmp(token, "<0x", 3) != 0 || token[5] != '>') return -1;
    const int high = token[3] == '+' ? 0 : digit_value(token[3]); // <0x+F> is 15, as `tokenizers` reads it
    const int low = digit_value(token[4]);
    return high < 0 || low < 0 ? -1 : 16 * high + low;
}
