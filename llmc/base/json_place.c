#include "base/json_place.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"

// ---- the tree: a value's number in the order of the text, the root's is 0

typedef struct {
    const cJSON *value;
    char *path;
    size_t capacity;
    size_t number; // of the values before it
} Search;

static void append_step(Search *search, size_t length, const cJSON *child, int index) {
    if (length >= search->capacity) return;
    char *to = search->path + length;
    const size_t room = search->capacity - length;
    if (child->string)
        snprintf(to, room, "%s%s", length ? "." : "", child->string);
    else
        snprintf(to, room, "[%d]", index);
}

// length: of the path to `at`.
static bool find_value(Search *search, const cJSON *at, size_t length) {
    if (at == search->value) return true;
    search->number++;
    int index = 0;
    for (const cJSON *child = at->child; child; child = child->next) {
        append_step(search, length, child, index++);
        if (find_value(search, child, strlen(search->path))) return true;
    }
    search->path[length] = 0;
    return false;
}

// ---- the text: where the value of a number begins

static const char *skip_string(const char *at) {
    for (at++; *at && *at != '"'; at++)
        if (*at == '\\' && at[1]) at++;
    return *at ? at + 1 : at;
}

static const char *skip_space(const char *at) { return at + strspn(at, " \t\r\n"); }

// A value begins after a colon, and in a list after its bracket and each comma.
static const char *find_text(const char *at, size_t number) {
    bool in_list[JSON_MAX_DEPTH + 1] = {false};
    int depth = 0;
    if (number == 0) return skip_space(at);
    while (*at) {
        if (*at == '"') {
            at = skip_string(at);
            continue;
        }
        const char c = *at++;
        if ((c == '[' || c == '{') && depth < JSON_MAX_DEPTH) in_list[++depth] = c == '[';
        if ((c == ']' || c == '}') && depth > 0) depth--;
        const bool empty = c == '[' && *skip_space(at) == ']';
        const bool begins = c == ':' || (in_list[depth] && (c == '[' || c == ',') && !empty);
        if (begins && --number == 0) return skip_space(at);
    }
    return at;
}

int json_place(const cJSON *root, const cJSON *value, const char *text, char *path, size_t capacity) {
    Search search = {value, path, capacity, 0};
    path[0] = 0;
    if (!find_value(&search, root, 0)) return 0;
    int line = 1;
    const char *end = find_text(text, search.number);
    for (const char *at = text; at < end; at++) line += *at == '\n';
    return line;
}
