// A recipe out of its file: its sources and its learning rate. Stages: recipe_stage.c.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "recipe/recipe_members.h"

// ---- sources

static int take_sources(Recipe *recipe, const Member *member, const cJSON *json, void *to, Error *err) {
    static const Member members[] = {
        MEMBER(RecipeSource, train, "train", recipe_take_text, .required = true),
        MEMBER(RecipeSource, val, "val", recipe_take_text),
        MEMBER(RecipeSource, max_epochs, "max_epochs", recipe_take_real, .min = RECIPE_POSITIVE, .max = 1e9,
               .expected = "> 0"),
        {0},
    };
    (void)member;
    (void)to;
    const int count = cJSON_IsObject(json) ? cJSON_GetArraySize(json) : 0;
    if (count < 1 || count > RECIPE_MAX_SOURCES)
        return recipe_refuse(recipe, json, "an object with 1 to 64 named sources", err);
    recipe->sources = recipe_alloc(recipe, (size_t)count * sizeof *recipe->sources, err);
    if (!recipe->sources) return ERROR_FAULT;
    int code = 0;
    for (const cJSON *child = json->child; !code && child; child = child->next) {
        RecipeSource *source = &recipe->sources[recipe->num_sources++];
        source->name = child->string;
        if (!child->string[0])
            code = recipe_refuse_name(recipe, child, "a name", err);
        else if (json_get(json, child->string) != child)
            code = recipe_refuse_name(recipe, child, "it once", err);
        else
            code = recipe_take_object(recipe, members, child, source, err);
    }
    return code;
}

// ---- the learning rate

typedef struct {
    const char *shape;
    double from, to; // NAN: not given
    int64_t tokens, steps;
} PieceText;

static const Member piece_members[] = {
    MEMBER(PieceText, shape, "shape", recipe_take_text, .required = true),
    MEMBER(PieceText, from, "from", recipe_take_real, .min = 0, .max = 1e30),
    MEMBER(PieceText, to, "to", recipe_take_real, .min = 0, .max = 1e30),
    MEMBER(PieceText, tokens, "tokens", recipe_take_count, .min = 1, .max = RECIPE_MOST_TOKENS),
    MEMBER(PieceText, steps, "steps", recipe_take_count, .min = 1, .max = RECIPE_MOST_STEPS),
    {0},
};

static int take_shape(Recipe *recipe, const cJSON *json, const PieceText *text, RatePiece *piece, Error *err) {
    static const char *const names[] = {
        [RATE_LINEAR] = "linear", [RATE_COSINE] = "cosine", [RATE_CONSTANT] = "constant"};
    for (int i = 0; i < 3; i++) {
        if (strcmp(text->shape, names[i]) != 0) continue;
        piece->shape = (RateShape)i;
        return 0;
    }
    return recipe_refuse(recipe, json_get(json, "shape"), "linear, cosine or constant", err);
}

// Where a piece does not say it, it begins at the rate with which the one before ended; a constant one ends there, too.
static int take_ends(Recipe *recipe, const cJSON *json, const PieceText *text, RatePiece *piece, bool first,
                     Error *err) {
    piece->from = text->from;
    if (isnan(piece->from)) {
        if (first) return recipe_miss(recipe, json, "from", err);
        piece->from = piece[-1].to;
    }
    piece->to = text->to;
    if (piece->shape == RATE_CONSTANT) {
        if (!isnan(piece->to))
            return recipe_refuse(recipe, json_get(json, "to"), "none, as the shape is constant", err);
        piece->to = piece->from;
    }
    return isnan(piece->to) ? recipe_miss(recipe, json, "to", err) : 0;
}

static int take_length(Recipe *recipe, const cJSON *json, const PieceText *text, LearningRate *rate, int i,
                       Error *err) {
    RatePiece *piece = &rate->pieces[i];
    const bool in_steps = text->steps > 0;
    if (text->tokens && in_steps)
        return recipe_refuse(recipe, json_get(json, "steps"), "none, as tokens says the length", err);
    piece->length = in_steps ? text->steps : text->tokens;
    if (!piece->length && json->next) return recipe_miss(recipe, json, "tokens or steps", err);
    if (i == 0) rate->in_steps = in_steps;
    if (piece->length && in_steps != rate->in_steps)
        return recipe_refuse(recipe, json,
                             rate->in_steps ? "steps, as in the first piece" : "tokens, as in the first piece", err);
    return 0;
}

int recipe_take_rate(Recipe *recipe, const Member *member, const cJSON *json, void *to, Error *err) {
    (void)member;
    LearningRate *rate = to;
    int code = recipe_begin_list(recipe, json, RECIPE_MAX_LIST, sizeof *rate->pieces, (void *)&rate->pieces,
                                 &rate->count, err);
    const cJSON *item = code ? NULL : json->child;
    for (int i = 0; !code && item; item = item->next, i++) {
        PieceText text = {.from = NAN, .to = NAN};
        code = recipe_take_object(recipe, piece_members, item, &text, err);
        if (!code) code = take_shape(recipe, item, &text, &rate->pieces[i], err);
        if (!code) code = take_ends(recipe, item, &text, &rate->pieces[i], i == 0, err);
        if (!code) code = take_length(recipe, item, &text, rate, i, err);
    }
    return code;
}

// ---- the file

static int take_notes(Recipe *recipe, const Member *member, const cJSON *json, void *to, Error *err) {
    (void)member;
    (void)to;
    if (!cJSON_IsArray(json)) return recipe_refuse(recipe, json, "a list of texts", err);
    for (const cJSON *note = json->child; note; note = note->next)
        if (!cJSON_IsString(note)) return recipe_refuse(recipe, note, "a text", err);
    return 0;
}

static const Member recipe_members[] = {
    MEMBER(Recipe, name, "name", recipe_take_text, .required = true),
    MEMBER(Recipe, name, "notes", take_notes),
    MEMBER(Recipe, sources, "sources", take_sources, .required = true),
    MEMBER(Recipe, rate, "learning_rate", recipe_take_rate),
    MEMBER(Recipe, stages, "stages", recipe_take_stages, .required = true),
    {0},
};

int recipe_open(Recipe **out, const char *path, Error *err) {
    size_t length = 0;
    Recipe *recipe = calloc(1, sizeof *recipe);
    if (!recipe || !(recipe->path = strdup(path))) {
        free(recipe);
        return fail_fault(err, "%s: no memory for a recipe", path);
    }
    int code = file_read_whole(path, RECIPE_MAX_BYTES, &recipe->text, &length, err);
    if (!code) code = json_parse_object(&recipe->json, recipe->text, length, path, err);
    if (!code) code = recipe_take_object(recipe, recipe_members, recipe->json, recipe, err);
    if (code)
        recipe_close(recipe);
    else
        *out = recipe;
    return code;
}
