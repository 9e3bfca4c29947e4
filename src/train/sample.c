#include "train/sample.h"

#include <stdlib.h>
#include <string.h>

int sample_ids(Decoder *d, Sampler *sampler, int32_t *ids, int count, const LlamaConfig *config, double temperature,
               uint64_t seed) {
    const SamplerOptions options = {.temperature = temperature, .top_p = 1};
    const int32_t row = 0;
    ids[0] = config->bos_token_id;
    for (int n = 1; n < count; n++) {
        const int failed = n == 1 ? decoder_prefill(d, row, ids, 1, NULL) : decoder_step(d, &row, &ids[n - 1], 1, NULL);
        if (failed) return n; // no room: the caller's count is at most the capacity
        ids[n] = sampler_draw(sampler, decoder_logits(d, row), &options, &seed);
        if (llama_config_is_end(config, ids[n])) return n + 1;
    }
    return count;
}

// Bytes of the UTF-8 character at text (RFC 3629); 0: there is none.
static size_t character_length(const unsigned char *text, size_t left) {
    unsigned char c = text[0];
    size_t length = c < 0x80                ? 1
                    : c >= 0xC2 && c < 0xE0 ? 2
                    : c >= 0xE0 && c < 0xF0 ? 3
                    : c >= 0xF0 && c < 0xF5 ? 4
                                            : 0;
    if (length == 0 || length > left) return 0;
    for (size_t i = 1; i < length; i++)
        if (text[i] >> 6 != 2) return 0;
    if ((c == 0xE0 && text[1] < 0xA0) || (c == 0xED && text[1] > 0x9F)) return 0; // overlong; surrogates
    if ((c == 0xF0 && text[1] < 0x90) || (c == 0xF4 && text[1] > 0x8F)) return 0; // overlong; beyond U+10FFFF
    return length;
}

static bool is_control(const unsigned char *character, size_t length) {
    if (length == 1)
        return (character[0] < 0x20 && character[0] != '\n' && character[0] != '\t') || character[0] == 0x7F;
    return length == 2 && character[0] == 0xC2 && character[1] < 0xA0; // C1: some terminals obey them
}

size_t sample_text(const Tokenizer *tokenizer, const int32_t *ids, int count, char *text, size_t capacity) {
    size_t bytes = tokenizer_decode(tokenizer, ids, (size_t)count, true, NULL, 0);
    unsigned char *raw = malloc(bytes + 1);
    size_t length = 0;
    if (raw) tokenizer_decode(tokenizer, ids, (size_t)count, true, (char *)raw, bytes + 1);
    for (size_t at = 0, taken; raw && at < bytes; at += taken) {
        size_t found = taken = character_length(raw + at, bytes - at);
        const void *shown = raw + at;
        if (found && is_control(raw + at, found)) shown = " ", found = 1;
        if (!found) shown = "\xEF\xBF\xBD", found = 3, taken = 1;
        if (length + found >= capacity) break;
        memcpy(text + length, shown, found);
        length += found;
    }
    free(raw);
    text[length] = 0;
    return length;
}
