#include "generate/greedy.h"

#include "generate/decoder.h"

static int32_t likeliest(const float *logits, int vocab_size) {
    int32_t best = 0;
    for (int32_t i = 1; i < vocab_size; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

// Row 0 of the decoder becomes this item's text.
static int match_item(bool *exact, Decoder *d, const EvalSet *set, const EvalItem *item, int vocab_size, Error *err) {
    const EvalEnding *ending = &set->endings[item->first_ending + item->label];
    const int32_t *answer = set->tokens + ending->tokens, row = 0;
    const int room = decoder_capacity(d) - (ending->num_tokens - 1); // at least 1: evalpack_create
    const int n = item->context_tokens < room ? item->context_tokens : room;
    int code = decoder_prefill(d, row, set->tokens + item->context + item->context_tokens - n, n, err);
    *exact = false;
    for (int i = 0; !code; i++) {
        if (likeliest(decoder_logits(d, row), vocab_size) != answer[i]) return 0;
        if (i + 1 == ending->num_tokens) break;
        code = decoder_step(d, &row, &answer[i], 1, err);
    }
    *exact = !code;
    return code;
}

int greedy_match(bool *exact, Llama3 *m, const EvalSet *set, EvalStop stop, Error *err) {
    Decoder *d = NULL;
    int code = decoder_create(&d, m, &(DecoderSizes){.rows = 1, .capacity = llama3_shape(m)->T}, err);
    for (int64_t i = 0; !code && i < set->num_items && !(stop && stop()); i++)
        code = match_item(&exact[i], d, set, &set->items[i], llama3_config(m)->vocab_size, err);
    decoder_destroy(d);
    return code;
}
