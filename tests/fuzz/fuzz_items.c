// The items of an evaluation.
#include "common.h"
#include "eval/items.h"

static void check_needles(const EvalSet *set) {
    fuzz_demand(set->num_depths >= 1 && set->num_depths <= EVALSET_MAX_DEPTHS, "the depths have room");
    for (int i = 1; i < set->num_depths; i++) fuzz_demand(set->depths[i] > set->depths[i - 1], "the depths rise");
    for (int64_t i = 0; i < set->num_items; i++)
        fuzz_demand(evalset_depth(set, set->items[i].depth) >= 0, "an item's depth is among them");
}

static void check(const EvalSet *set, size_t size) {
    if (set->kind == EVAL_NEEDLES) check_needles(set);
    fuzz_demand(set->num_tokens >= 0 && (uint64_t)set->num_tokens <= size / 4, "tokens lie in the file");
    for (int64_t i = 0; i < set->num_tokens; i++)
        fuzz_demand(set->tokens[i] >= 0 && set->tokens[i] < set->vocab_size, "every id is in the vocabulary");
    for (int64_t i = 0; i < set->num_items; i++) {
        const EvalItem *item = &set->items[i];
        fuzz_demand(item->context >= 0 && item->context_tokens >= 1 &&
                        item->context + item->context_tokens <= set->num_tokens,
                    "a context lies in the tokens");
        fuzz_demand(item->num_endings >= 1 && item->label >= 0 && item->label < item->num_endings,
                    "the label is an ending's");
        fuzz_demand(item->first_ending >= 0 && item->first_ending + item->num_endings <= set->num_endings,
                    "an item's endings are there");
        for (int64_t j = item->first_ending; j < item->first_ending + item->num_endings; j++) {
            const EvalEnding *ending = &set->endings[j];
            fuzz_demand(ending->num_tokens >= 1 && ending->tokens >= 0 &&
                            ending->tokens + ending->num_tokens <= set->num_tokens,
                        "an ending lies in the tokens");
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Error err = {0};
    EvalSet *set = NULL;
    int code = evalset_open(&set, fuzz_file(data, size), &err);
    fuzz_demand_code(code, err.code, err.message);
    if (code != 0) return 0;
    check(set, size);
    evalset_close(set);
    return 0;
}

// The count of tokens follows the file's size most of the time, without which nothing behind the header is reached.
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    unsigned random = seed;
    size = LLVMFuzzerMutate(data, size, max_size);
    if (size < EVALSET_HEADER_BYTES || fuzz_random(&random, 4) == 0) return size;
    uint64_t entries = (uint64_t)data[24] + data[32], begin = EVALSET_HEADER_BYTES + 16 * entries;
    if (begin > size) return size;
    uint64_t count = (size - begin) / 4;
    for (int i = 0; i < 8; i++) data[40 + i] = (uint8_t)(count >> 8 * i);
    for (int i = 80; i < EVALSET_HEADER_BYTES; i++) data[i] = 0;
    return begin + count * 4;
}
