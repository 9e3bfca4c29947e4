// JSON from outside: what passes is UTF-8 of bounded depth whose text prints and parses again to the same.
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "common.h"

static int depth(const cJSON *json) {
    int deepest = 0;
    for (const cJSON *item = json->child; item != NULL; item = item->next) {
        int below = depth(item);
        if (below > deepest) deepest = below;
    }
    return deepest + 1;
}

static void check(const cJSON *json) {
    Error err = {0};
    uint64_t value;
    fuzz_demand(depth(json) <= JSON_MAX_DEPTH + 1, "nesting is bounded");
    int code = json_check_unique(json, "x", "", &err);
    fuzz_demand_code(code, err.code, err.message);
    for (const cJSON *item = json->child; item != NULL; item = item->next) {
        fuzz_demand(json_get(json, item->string) != NULL, "a member is found by its name");
        if (code == 0) fuzz_demand(json_get(json, item->string) == item, "and it is that one");
        if (json_is_count(item, 1 << 20, &value)) fuzz_demand(value <= 1 << 20, "a count is in its bounds");
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Error err = {0};
    cJSON *json = NULL, *again = NULL;
    char *text = malloc(size + 1); // exactly the text: the parser must not read on
    if (text == NULL) return 0;
    memcpy(text, data, size);
    text = realloc(text, size > 0 ? size : 1);
    int code = json_parse_object(&json, text, size, "input", &err);
    free(text);
    fuzz_demand_code(code, err.code, err.message);
    if (code != 0) return 0;
    check(json);
    char *printed = cJSON_PrintUnformatted(json);
    fuzz_demand(printed != NULL, "what was parsed prints");
    code = json_parse_object(&again, printed, strlen(printed), "printed", &err);
    fuzz_demand(code == 0, "what was printed parses");
    cJSON_free(printed);
    cJSON_Delete(again);
    cJSON_Delete(json);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    return fuzz_mutate_json(data, size, max_size, &seed);
}
