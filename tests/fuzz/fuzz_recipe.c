// A recipe: what is read settles into stages that follow each other, with rates and shares that are numbers, and has no
// difference from itself.
#include <math.h>
#include <string.h>

#include "common.h"
#include "recipe/recipe.h"

static void check_stage(const Recipe *recipe, int i) {
    double shares[2][RECIPE_MAX_SOURCES];
    const Stage *s = &recipe->stages[i];
    fuzz_demand(s->steps > 0 && s->tokens == s->steps * s->tokens_per_step, "a stage has whole steps");
    fuzz_demand(!i || s->first_step == s[-1].first_step + s[-1].steps, "stages follow each other");
    fuzz_demand(s->grad_accum * s->batch_size * s->seq_len == s->tokens_per_step, "micro-batches fill a step");
    recipe_shares(recipe, i, shares[0], shares[1]);
    for (int end = 0; end < 2; end++) {
        double sum = 0;
        for (int j = 0; j < recipe->num_sources; j++) {
            fuzz_demand(shares[end][j] >= 0, "no share is negative");
            sum += shares[end][j];
        }
        fuzz_demand(fabs(sum - 1) < 1e-9, "shares add up to 1");
    }
    for (int64_t step = 0; step < s->steps; step += s->steps > 1 ? s->steps - 1 : 1) {
        const double rate =
            recipe_rate(recipe, i, step, s->first_step + step, s->first_token + step * s->tokens_per_step);
        fuzz_demand(rate >= 0 && rate <= 1e30, "a rate is one that the file allows");
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static char text[1 << 22];
    Error err = {0};
    Recipe *recipe = NULL;
    const char *path = fuzz_file(data, size);
    int code = recipe_open(&recipe, path, &err);
    fuzz_demand_code(code, err.code, err.message);
    if (code) return 0;
    fuzz_demand(recipe_compare(recipe->json, recipe, false, text, sizeof text) == 0, "a recipe is as itself");
    code = recipe_settle(recipe, 1, 0, &err);
    fuzz_demand_code(code, err.code, err.message);
    for (int i = 0; !code && i < recipe->num_stages; i++) check_stage(recipe, i);
    recipe_close(recipe);
    if (code) return 0;
    fuzz_demand(recipe_timeline_text(text, sizeof text, path, 1, &err) == 0, "what settles has a timeline");
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    return fuzz_mutate_json(data, size, max_size, &seed);
}
