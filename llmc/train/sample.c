#include "train/sample.h"

#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

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
        size_t found = taken = utf8_length(raw + at, bytes - at);
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
