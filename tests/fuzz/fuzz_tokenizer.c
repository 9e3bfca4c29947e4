// A tokenizer.json: opening, and the text of known and unknown ids.
#include <stdlib.h>
#include <string.h>

#include "common.h"
#include "loader/tokenizer.h"

enum { MANY = 600 };

static void decode(const Tokenizer *tokenizer) {
    int32_t ids[MANY];
    char text[64];
    for (int i = 0; i < MANY; i++) ids[i] = i - 2;
    ids[MANY - 1] = tokenizer_vocab_size(tokenizer) - 1;
    ids[MANY - 2] = tokenizer_vocab_size(tokenizer);
    ids[MANY - 3] = INT32_MAX;
    ids[MANY - 4] = INT32_MIN;
    for (int skip = 0; skip < 2; skip++) {
        size_t whole = tokenizer_decode(tokenizer, ids, MANY, skip, NULL, 0);
        char *all = malloc(whole + 1);
        if (all == NULL) return;
        fuzz_demand(tokenizer_decode(tokenizer, ids, MANY, skip, all, whole + 1) == whole, "its length is as told");
        fuzz_demand(tokenizer_decode(tokenizer, ids, MANY, skip, text, sizeof text) == whole, "however cut");
        size_t kept = whole < sizeof text - 1 ? whole : sizeof text - 1;
        fuzz_demand(memcmp(text, all, kept) == 0 && text[kept] == 0 && all[whole] == 0, "cut text is its beginning");
        free(all);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Error err = {0};
    Tokenizer *tokenizer = NULL;
    int code = tokenizer_open(&tokenizer, fuzz_file(data, size), &err);
    fuzz_demand_code(code, err.code, err.message);
    if (code != 0) return 0;
    decode(tokenizer);
    tokenizer_close(tokenizer);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    return fuzz_mutate_json(data, size, max_size, &seed);
}
