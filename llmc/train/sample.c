#include "train/sample.h"

#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

enum { MAX_BYTES_A_TOKEN = 16 };

int sample_open(Sampling *s, Llama3 *model, int num_tokens, Error *err) {
    *s = (Sampling){.num_tokens = num_tokens, .capacity = (size_t)num_tokens * MAX_BYTES_A_TOKEN + 1};
    s->ids = malloc((size_t)num_tokens * sizeof *s->ids);
    s->text = malloc(s->capacity);
    if (!s->ids || !s->text) return fail_fault(err, "out of memory");
    int code = decoder_create(&s->decoder, model, &(DecoderSizes){.rows = 1, .capacity = num_tokens}, err);
    return code ? code : sampler_create(&s->sampler, llama3_config(model)->vocab_size, err);
}

void sample_close(Sampling *s) {
    decoder_destroy(s->decoder);
    sampler_destroy(s->sampler);
    free(s->ids);
    free(s->text);
}

// Fills s->ids: ids[0] is the configuration's bos, each other is drawn given those before it. Returns how many there are.
static int draw_ids(Sampling *s, const LlamaConfig *config, double temperature, uint64_t seed) {
    Decoder *d = s->decoder;
    int32_t *ids = s->ids;
    const SamplerOptions options = {.temperature = temperature, .top_p = 1};
    const int32_t row = 0;
    ids[0] = config->bos_token_id;
    for (int n = 1; n < s->num_tokens; n++) {
        const int failed = n == 1 ? decoder_prefill(d, row, ids, 1, NULL) : decoder_step(d, &row, &ids[n - 1], 1, NULL);
        if (failed) return n; // no room
        ids[n] = sampler_draw(s->sampler, decoder_logits(d, row), &options, &seed);
        if (llama_config_is_end(config, ids[n])) return n + 1;
    }
    return s->num_tokens;
}

static bool is_control(const unsigned char *character, size_t length) {
    if (length == 1)
        return (character[0] < 0x20 && character[0] != '\n' && character[0] != '\t') || character[0] == 0x7F;
    return length == 2 && character[0] == 0xC2 && character[1] < 0xA0; // C1: some terminals obey them
}

// text = the ids' text as sample_write describes it, cut where capacity ends.
static void make_showable(const Tokenizer *tokenizer, const int32_t *ids, int count, char *text, size_t capacity) {
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
}

const char *sample_write(Sampling *s, const Tokenizer *tokenizer, const LlamaConfig *config, double temperature,
                         uint64_t seed) {
    const int count = draw_ids(s, config, temperature, seed);
    make_showable(tokenizer, s->ids, count, s->text, s->capacity);
    return s->text;
}
