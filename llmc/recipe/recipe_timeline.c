// A recipe's timeline for programs that are not written in C.
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "recipe/recipe.h"

enum { BETWEEN = 64 }; // points of the learning rate in a stage, beside those where it bends

static int compare_steps(const void *a, const void *b) {
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void add_rates(cJSON *to, const Recipe *recipe, int stage) {
    const Stage *s = &recipe->stages[stage];
    const LearningRate *rate = s->rate.count ? &s->rate : &recipe->rate;
    int64_t steps[BETWEEN + 1 + RECIPE_MAX_LIST];
    int count = 0;
    for (int i = 0; i <= BETWEEN; i++) steps[count++] = (int64_t)((double)(s->steps - 1) * i / BETWEEN);
    for (int i = 0; i < rate->count; i++) {
        const int64_t end = recipe_piece_end(recipe, stage, i);
        if (end >= 0) steps[count++] = end;
    }
    qsort(steps, (size_t)count, sizeof *steps, compare_steps);
    for (int i = 0; i < count; i++) {
        if (i && steps[i] == steps[i - 1]) continue;
        const int64_t step = steps[i];
        const double pair[] = {(double)step, recipe_rate(recipe, stage, step, s->first_step + step,
                                                         s->first_token + step * s->tokens_per_step)};
        cJSON_AddItemToArray(to, cJSON_CreateDoubleArray(pair, 2));
    }
}

static void add_stage(cJSON *to, const Recipe *recipe, int stage) {
    const Stage *s = &recipe->stages[stage];
    double shares[2][RECIPE_MAX_SOURCES];
    recipe_shares(recipe, stage, shares[0], shares[1]);
    cJSON_AddStringToObject(to, "name", s->name);
    cJSON_AddNumberToObject(to, "first_step", (double)s->first_step);
    cJSON_AddNumberToObject(to, "steps", (double)s->steps);
    cJSON_AddNumberToObject(to, "first_token", (double)s->first_token);
    cJSON_AddNumberToObject(to, "tokens", (double)s->tokens);
    cJSON_AddNumberToObject(to, "seq_len", (double)s->seq_len);
    cJSON_AddNumberToObject(to, "tokens_per_step", (double)s->tokens_per_step);
    cJSON_AddNumberToObject(to, "batch_size", (double)s->batch_size);
    cJSON_AddNumberToObject(to, "grad_accum", (double)s->grad_accum);
    cJSON_AddBoolToObject(to, "may_end_early", s->num_conditions > 0);
    add_rates(cJSON_AddArrayToObject(to, "rates"), recipe, stage);
    cJSON *ends = cJSON_AddArrayToObject(to, "shares");
    for (int i = 0; i < 2; i++) cJSON_AddItemToArray(ends, cJSON_CreateDoubleArray(shares[i], recipe->num_sources));
}

static cJSON *timeline(const Recipe *recipe) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "name", recipe->name);
    cJSON *sources = cJSON_AddArrayToObject(json, "sources"), *stages = cJSON_AddArrayToObject(json, "stages");
    for (int i = 0; i < recipe->num_sources; i++)
        cJSON_AddItemToArray(sources, cJSON_CreateString(recipe->sources[i].name));
    for (int i = 0; i < recipe->num_stages; i++) {
        cJSON *stage = cJSON_CreateObject();
        add_stage(stage, recipe, i);
        cJSON_AddItemToArray(stages, stage);
    }
    return json;
}

int recipe_timeline_text(char *text, size_t capacity, const char *path, int ranks, Error *err) {
    Recipe *recipe = NULL;
    int code = recipe_open(&recipe, path, err);
    if (!code) code = recipe_settle(recipe, ranks, 0, err);
    if (!code) {
        cJSON *json = timeline(recipe);
        char *printed = json_print(json, false);
        const size_t length = printed ? strlen(printed) : 0;
        if (!printed || length >= capacity)
            code = fail_fault(err, "%s: a timeline of %zu bytes, expected less than %zu", path, length, capacity);
        else
            memcpy(text, printed, length + 1);
        cJSON_free(printed);
        cJSON_Delete(json);
    }
    recipe_close(recipe);
    return code;
}
