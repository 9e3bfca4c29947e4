// What changed between two recipes, by path.
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "recipe/recipe.h"

typedef struct {
    char path[256];
    char *text;
    size_t capacity, used;
    bool other_ranks;
    int differences;
} Comparison;

static bool is_passed_over(const Comparison *c, const char *name) {
    static const char *const names[] = {"name", "notes", "val", "train", "evaluate"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i], name) == 0) return true;
    return c->other_ranks && strcmp(name, "batch_size") == 0;
}

static void report(Comparison *c, const cJSON *was, const cJSON *is) {
    char *old = was ? cJSON_PrintUnformatted(was) : NULL, *new = is ? cJSON_PrintUnformatted(is) : NULL;
    if (c->used < c->capacity)
        c->used += (size_t)snprintf(c->text + c->used, c->capacity - c->used, "%s%s: %.80s -> %.80s",
                                    c->differences ? "; " : "", c->path, old ? old : "nothing", new ? new : "nothing");
    c->differences++;
    cJSON_free(old);
    cJSON_free(new);
}

static void compare(Comparison *c, const cJSON *was, const cJSON *is);

// Compares two members or list elements; name NULL: the element `index`.
static void compare_step(Comparison *c, const char *name, int index, const cJSON *was, const cJSON *is) {
    const size_t length = strlen(c->path);
    if (name)
        snprintf(c->path + length, sizeof c->path - length, "%s%s", length ? "." : "", name);
    else
        snprintf(c->path + length, sizeof c->path - length, "[%d]", index);
    compare(c, was, is);
    c->path[length] = 0;
}

static void compare_objects(Comparison *c, const cJSON *was, const cJSON *is) {
    const bool named = strcmp(c->path, "sources") == 0; // its members' names are the user's
    for (const cJSON *new = is->child; new; new = new->next)
        if (named || !is_passed_over(c, new->string)) compare_step(c, new->string, 0, json_get(was, new->string), new);
    for (const cJSON *old = was->child; old; old = old->next)
        if ((named || !is_passed_over(c, old->string)) && !json_get(is, old->string))
            compare_step(c, old->string, 0, old, NULL);
}

static void compare_lists(Comparison *c, const cJSON *was, const cJSON *is) {
    const cJSON *old = was->child, *new = is->child;
    for (int i = 0; old || new; i++) {
        compare_step(c, NULL, i, old, new);
        if (old) old = old->next;
        if (new) new = new->next;
    }
}

static void compare(Comparison *c, const cJSON *was, const cJSON *is) {
    if (cJSON_IsObject(was) && cJSON_IsObject(is))
        compare_objects(c, was, is);
    else if (cJSON_IsArray(was) && cJSON_IsArray(is))
        compare_lists(c, was, is);
    else if (!was || !is || !cJSON_Compare(was, is, true))
        report(c, was, is);
}

int recipe_compare(const cJSON *was, const Recipe *is, bool other_ranks, char *text, size_t capacity) {
    Comparison c = {.text = text, .capacity = capacity, .other_ranks = other_ranks};
    if (capacity) text[0] = 0;
    compare(&c, was, is->json);
    return c.differences;
}
