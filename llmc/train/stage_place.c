#include "train/stage_place.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

int stage_place_begin(StagePlace *place, Recipe *recipe, Error *err) {
    const size_t sources = (size_t)recipe->num_sources;
    *place = (StagePlace){.recipe = recipe,
                          .began = calloc(sources, sizeof *place->began),
                          .now = calloc(sources, sizeof *place->now),
                          .epochs = calloc(sources, sizeof *place->epochs),
                          .used_up = calloc(sources, sizeof *place->used_up)};
    const bool all = place->began && place->now && place->epochs && place->used_up;
    if (!all) return fail_fault(err, "out of memory");
    stage_place_enter(place, 0, 0, 0);
    return 0;
}

void stage_place_free(StagePlace *place) {
    recipe_close(place->recipe);
    cJSON_Delete(place->span);
    free(place->began);
    free(place->now);
    free(place->epochs);
    free(place->used_up);
    *place = (StagePlace){0};
}

const Stage *stage_place_stage(const StagePlace *place) {
    return place->recipe ? &place->recipe->stages[place->stage] : NULL;
}

void stage_place_enter(StagePlace *place, int stage, int64_t step, int64_t tokens) {
    place->stage = stage;
    place->ended_early = false;
    place->first_step = place->span_step = step;
    place->first_token = tokens;
    place->end_step = step + stage_place_stage(place)->steps;
}

int64_t stage_place_steps(const StagePlace *place) {
    const Recipe *recipe = place->recipe;
    int64_t steps = place->end_step;
    for (int i = place->stage + 1; i < recipe->num_stages; i++) steps += recipe->stages[i].steps;
    return steps;
}

// ---- the span

static cJSON *describe_span(const Recipe *recipe, int T, int64_t rows, const double *weights, const double *at_end) {
    cJSON *span = cJSON_CreateObject(), *sources = cJSON_CreateArray();
    cJSON_AddNumberToObject(span, "seq_len", T);
    cJSON_AddNumberToObject(span, "block", recipe_block(recipe));
    cJSON_AddNumberToObject(span, "rows", (double)rows);
    for (int i = 0; i < recipe->num_sources; i++) {
        const double numbers[] = {weights[i], at_end[i], recipe->sources[i].max_epochs};
        cJSON *source = cJSON_CreateDoubleArray(numbers, 3);
        cJSON_InsertItemInArray(source, 0, cJSON_CreateString(recipe->sources[i].name));
        cJSON_AddItemToArray(sources, source);
    }
    // by name, at both ends, and how often the source may be read; in the recipe's order, which decides between equal ones
    cJSON_AddItemToObject(span, "shares", sources);
    return span;
}

int64_t stage_place_span(StagePlace *place, double *weights, double *weights_at_end) {
    const Recipe *recipe = place->recipe;
    const Stage *stage = stage_place_stage(place);
    const int64_t begun = place->span_step - place->first_step;
    place->span_end = place->end_step;
    if (stage->num_conditions) {
        const int64_t check = place->first_step + (begun / stage->check_every + 1) * stage->check_every;
        if (check < place->end_step) place->span_end = check;
    }
    const double length = (double)stage->steps, first = (double)begun / length,
                 last = (double)(place->span_end - place->first_step) / length;
    const int64_t rows = (place->span_end - place->span_step) * (stage->tokens_per_step / stage->seq_len);
    recipe_shares(recipe, place->stage, weights, weights_at_end);
    for (int i = 0; i < recipe->num_sources; i++) {
        const double from = weights[i], change = weights_at_end[i] - from;
        weights[i] = from + first * change;
        weights_at_end[i] = from + last * change;
    }
    cJSON_Delete(place->span);
    place->span = describe_span(recipe, (int)stage->seq_len, rows, weights, weights_at_end);
    return rows;
}

// ---- state.json

#define CURSOR(member)                                                                                                 \
    { #member, offsetof(MixtureCursor, member) }
static const struct {
    const char *name;
    size_t offset;
} cursor_members[] = {CURSOR(epoch),   CURSOR(place), CURSOR(offset), CURSOR(length),
                      CURSOR(windows), CURSOR(taken), CURSOR(tokens), CURSOR(credit)};
enum { CURSOR_MEMBERS = sizeof cursor_members / sizeof *cursor_members };
_Static_assert(sizeof(MixtureCursor) == CURSOR_MEMBERS * sizeof(int64_t), "a cursor is these numbers");

static const double MOST_EXACT = (double)((int64_t)1 << 53); // whole numbers in JSON

static int64_t *cursor_member(MixtureCursor *cursor, int i) {
    return (int64_t *)((char *)cursor + cursor_members[i].offset);
}

static cJSON *cursors_to_json(const MixtureCursor *cursors, const Recipe *recipe) {
    cJSON *sources = cJSON_CreateObject();
    for (int s = 0; s < recipe->num_sources; s++) {
        MixtureCursor cursor = cursors[s];
        cJSON *object = cJSON_AddObjectToObject(sources, recipe->sources[s].name);
        for (int i = 0; i < CURSOR_MEMBERS; i++)
            cJSON_AddNumberToObject(object, cursor_members[i].name, (double)*cursor_member(&cursor, i));
    }
    return sources;
}

static int fail_place(const Resume *resume, const char *what, Error *err) {
    return fail_input(err, "%s/trainer/state.json: stage: expected %s", resume->folder, what);
}

// cursors [sources] (=): of a source that the recipe of the checkpoint lacked, zeros.
static int cursors_from_json(MixtureCursor *cursors, const cJSON *json, const Recipe *recipe, const Resume *resume,
                             Error *err) {
    for (int s = 0; s < recipe->num_sources; s++) {
        const cJSON *object = json_get(json, recipe->sources[s].name);
        for (int i = 0; object && i < CURSOR_MEMBERS; i++) {
            const cJSON *number = json_get(object, cursor_members[i].name);
            const double value = cJSON_IsNumber(number) ? number->valuedouble : 0.5;
            if (!(fabs(value) <= MOST_EXACT) || value != (double)(int64_t)value)
                return fail_place(resume, "whole numbers for each source", err);
            *cursor_member(&cursors[s], i) = (int64_t)value;
        }
    }
    return 0;
}

#define STEPS(member)                                                                                                  \
    { #member, offsetof(StagePlace, member) }
static const struct {
    const char *name;
    size_t offset;
} step_members[] = {STEPS(first_step), STEPS(first_token), STEPS(end_step), STEPS(span_step), STEPS(span_end)};
enum { STEP_MEMBERS = sizeof step_members / sizeof *step_members };

static int64_t *step_member(StagePlace *place, int i) { return (int64_t *)((char *)place + step_members[i].offset); }

void stage_place_add(cJSON *root, const StagePlace *place) {
    const Recipe *recipe = place->recipe;
    StagePlace copy = *place;
    cJSON *stage = cJSON_AddObjectToObject(root, "stage");
    cJSON_AddStringToObject(stage, "name", stage_place_stage(place)->name);
    for (int i = 0; i < STEP_MEMBERS; i++)
        cJSON_AddNumberToObject(stage, step_members[i].name, (double)*step_member(&copy, i));
    cJSON_AddBoolToObject(stage, "ended_early", place->ended_early);
    cJSON_AddItemToObject(stage, "span", cJSON_Duplicate(place->span, true));
    cJSON_AddItemToObject(stage, "began", cursors_to_json(place->began, recipe));
    cJSON_AddItemToObject(stage, "now", cursors_to_json(place->now, recipe));
    cJSON *used_up = cJSON_AddArrayToObject(stage, "used_up");
    for (int i = 0; i < recipe->num_sources; i++)
        if (place->used_up[i]) cJSON_AddItemToArray(used_up, cJSON_CreateString(recipe->sources[i].name));
    cJSON_AddItemToObject(root, "recipe", cJSON_Duplicate(recipe->json, true));
}

static void take_used_up(StagePlace *place, const cJSON *names) {
    const cJSON *name;
    cJSON_ArrayForEach(name, names) {
        for (int i = 0; cJSON_IsString(name) && i < place->recipe->num_sources; i++)
            if (strcmp(place->recipe->sources[i].name, name->valuestring) == 0) place->used_up[i] = true;
    }
}

static int take_steps(StagePlace *place, const cJSON *stage, const Resume *resume, Error *err) {
    for (int i = 0; i < STEP_MEMBERS; i++) {
        uint64_t value;
        if (!json_is_count(json_get(stage, step_members[i].name), INT64_MAX, &value))
            return fail_place(resume, "steps and tokens", err);
        *step_member(place, i) = (int64_t)value;
    }
    if (place->first_step <= place->span_step && place->span_step <= resume->step && resume->step <= place->end_step)
        return 0;
    return fail_place(resume, "it to be that of the checkpoint's step", err);
}

static int find_stage(int *index, const Recipe *recipe, const cJSON *stage, const Resume *resume, Error *err) {
    const cJSON *name = json_get(stage, "name");
    for (*index = 0; *index < recipe->num_stages && cJSON_IsString(name); (*index)++)
        if (strcmp(recipe->stages[*index].name, name->valuestring) == 0) return 0;
    return fail_input(err, "%s: stages: expected one named '%.100s', in which the checkpoint %s is", recipe->path,
                      cJSON_IsString(name) ? name->valuestring : "", resume->folder);
}

// The order of blocks has another unit: the place in it that is nearest, at a block's beginning.
static void change_block(MixtureCursor *cursor, double was, double is) {
    cursor->place = (int64_t)((double)cursor->place * was / is);
    cursor->offset = cursor->length = cursor->windows = cursor->taken = 0;
}

// Where the recipe says the same of the running span it goes on; else what is left of the stage becomes a span of its own.
static void take_span(StagePlace *place, const cJSON *was, int64_t step) {
    const Recipe *recipe = place->recipe;
    double shares[2][RECIPE_MAX_SOURCES];
    const int64_t was_end = place->span_end;
    stage_place_span(place, shares[0], shares[1]);
    if (place->span_end == was_end && cJSON_Compare(place->span, was, true)) return;
    const cJSON *block = json_get(was, "block");
    const double before = cJSON_IsNumber(block) ? block->valuedouble : 0, after = recipe_block(recipe);
    for (int i = 0; before != after && i < recipe->num_sources; i++) change_block(&place->now[i], before, after);
    memcpy(place->began, place->now, (size_t)recipe->num_sources * sizeof *place->now);
    place->span_step = step;
    stage_place_span(place, shares[0], shares[1]);
}

int stage_place_take(StagePlace *place, const Resume *resume, Error *err) {
    const Recipe *recipe = place->recipe;
    const cJSON *stage = json_get(resume->state, "stage");
    if (!stage)
        return fail_input(
            err,
            "--recipe %s: expected a checkpoint of a run with a recipe, found %s; --init-from begins with its "
            "weights",
            recipe->path, resume->folder);
    int code = find_stage(&place->stage, recipe, stage, resume, err);
    if (!code) code = take_steps(place, stage, resume, err);
    if (!code) code = cursors_from_json(place->began, json_get(stage, "began"), recipe, resume, err);
    if (!code) code = cursors_from_json(place->now, json_get(stage, "now"), recipe, resume, err);
    if (code) return code;
    take_used_up(place, json_get(stage, "used_up"));
    place->ended_early = cJSON_IsTrue(json_get(stage, "ended_early"));
    if (!place->ended_early) place->end_step = place->first_step + stage_place_stage(place)->steps;
    if (place->end_step < resume->step) place->end_step = resume->step; // the stage was shortened
    take_span(place, json_get(stage, "span"), resume->step);
    return 0;
}
