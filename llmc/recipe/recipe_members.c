#include "recipe/recipe_members.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/json_place.h"

enum { PATH_SIZE = 256 };

int recipe_refuse(const Recipe *recipe, const cJSON *value, const char *expected, Error *err) {
    char path[PATH_SIZE];
    const int line = json_place(recipe->json, value, recipe->text, path, sizeof path);
    char *found = cJSON_PrintUnformatted(value);
    int code = fail_input(err, "%s:%d: %s%sexpected %s, found %.80s", recipe->path, line, path, path[0] ? ": " : "",
                          expected, found ? found : "?");
    cJSON_free(found);
    return code;
}

int recipe_refuse_name(const Recipe *recipe, const cJSON *value, const char *expected, Error *err) {
    char path[PATH_SIZE];
    const int line = json_place(recipe->json, value, recipe->text, path, sizeof path);
    return fail_input(err, "%s:%d: %s: expected %s, found \"%.80s\"", recipe->path, line, path, expected,
                      value->string ? value->string : "");
}

int recipe_miss(const Recipe *recipe, const cJSON *object, const char *name, Error *err) {
    char path[PATH_SIZE];
    const int line = json_place(recipe->json, object, recipe->text, path, sizeof path);
    return fail_input(err, "%s:%d: %s%s%s: expected it, found nothing", recipe->path, line, path, path[0] ? "." : "",
                      name);
}

int recipe_refuse_stage(const Recipe *recipe, int stage, const char *name, int64_t found, const char *expected,
                        Error *err) {
    char path[PATH_SIZE];
    const cJSON *json = cJSON_GetArrayItem(json_get(recipe->json, "stages"), stage), *member = json_get(json, name);
    const int line = json_place(recipe->json, member ? member : json, recipe->text, path, sizeof path);
    return fail_input(err, "%s:%d: stages[%d].%s: expected %s, found %lld", recipe->path, line, stage, name, expected,
                      (long long)found);
}

// ---- members of an object

static const Member *find_member(const Member *members, const char *name) {
    for (; members->name; members++)
        if (strcmp(members->name, name) == 0) return members;
    return NULL;
}

// expected = "one of tokens, steps, ..."
static void list_members(char *expected, size_t capacity, const Member *members) {
    size_t used = 0;
    for (const Member *m = members; m->name && used < capacity; m++)
        used += (size_t)snprintf(expected + used, capacity - used, "%s%s", m == members ? "one of " : ", ", m->name);
}

static int check_names(const Recipe *recipe, const Member *members, const cJSON *object, Error *err) {
    char expected[400];
    list_members(expected, sizeof expected, members);
    if (!cJSON_IsObject(object)) return recipe_refuse(recipe, object, "an object", err);
    for (const cJSON *child = object->child; child; child = child->next) {
        if (!find_member(members, child->string)) return recipe_refuse_name(recipe, child, expected, err);
        if (json_get(object, child->string) != child) return recipe_refuse_name(recipe, child, "it once", err);
    }
    return 0;
}

int recipe_take_object(Recipe *recipe, const Member *members, const cJSON *object, void *to, Error *err) {
    int code = check_names(recipe, members, object, err);
    for (const Member *m = members; !code && m->name; m++) {
        const cJSON *value = json_get(object, m->name);
        if (value)
            code = m->take(recipe, m, value, (char *)to + m->offset, err);
        else if (m->required)
            code = recipe_miss(recipe, object, m->name, err);
    }
    return code;
}

int recipe_take_text(Recipe *recipe, const Member *member, const cJSON *value, void *to, Error *err) {
    (void)member;
    if (!cJSON_IsString(value) || !value->valuestring[0]) return recipe_refuse(recipe, value, "a text", err);
    *(const char **)to = value->valuestring;
    return 0;
}

int recipe_take_count(Recipe *recipe, const Member *member, const cJSON *value, void *to, Error *err) {
    uint64_t count = 0;
    char expected[80];
    snprintf(expected, sizeof expected, "a whole number from %.0f to %.0f", member->min, member->max);
    if (!json_is_count(value, (uint64_t)member->max, &count) || (double)count < member->min)
        return recipe_refuse(recipe, value, expected, err);
    *(int64_t *)to = (int64_t)count;
    return 0;
}

int recipe_take_real(Recipe *recipe, const Member *member, const cJSON *value, void *to, Error *err) {
    char expected[80];
    const double number = cJSON_IsNumber(value) ? value->valuedouble : NAN;
    snprintf(expected, sizeof expected, "a number from %g to %g", member->min, member->max);
    if (!(number >= member->min && number <= member->max))
        return recipe_refuse(recipe, value, member->expected ? member->expected : expected, err);
    *(double *)to = number;
    return 0;
}

int recipe_take_flag(Recipe *recipe, const Member *member, const cJSON *value, void *to, Error *err) {
    (void)member;
    if (!cJSON_IsBool(value)) return recipe_refuse(recipe, value, "true or false", err);
    *(bool *)to = cJSON_IsTrue(value);
    return 0;
}

int recipe_begin_list(Recipe *recipe, const cJSON *json, int most, size_t size, void *list, int *count, Error *err) {
    char expected[80];
    const int length = cJSON_IsArray(json) ? cJSON_GetArraySize(json) : 0;
    snprintf(expected, sizeof expected, "a list of 1 to %d", most);
    if (length < 1 || length > most) return recipe_refuse(recipe, json, expected, err);
    void *room = recipe_alloc(recipe, (size_t)length * size, err);
    if (!room) return ERROR_FAULT;
    *(void **)list = room;
    *count = length;
    return 0;
}

// ---- memory

typedef struct Block {
    struct Block *next;
    max_align_t bytes[];
} Block;

void *recipe_alloc(Recipe *recipe, size_t bytes, Error *err) {
    Block *block = calloc(1, sizeof *block + bytes);
    if (!block) {
        fail_fault(err, "%s: no memory for %zu bytes", recipe->path, bytes);
        return NULL;
    }
    block->next = recipe->memory;
    recipe->memory = block;
    return block->bytes;
}

void recipe_close(Recipe *recipe) {
    if (!recipe) return;
    for (Block *block = recipe->memory, *next; block; block = next) {
        next = block->next;
        free(block);
    }
    cJSON_Delete(recipe->json);
    free(recipe->path);
    free(recipe->text);
    free(recipe);
}
