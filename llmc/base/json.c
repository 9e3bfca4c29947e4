#include "base/json.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/utf8.h"

typedef struct {
    const char *text;
    size_t length, at;
    int depth;
    size_t values; // at most so many: each but the root follows a bracket or a comma
    bool in_string;
} Scan;

// Takes a backslash and what it escapes; false for \u0000.
static bool scan_escape(Scan *scan) {
    bool zero = scan->length - scan->at >= 6 && memcmp(scan->text + scan->at, "\\u0000", 6) == 0;
    scan->at += scan->length - scan->at >= 2 && (unsigned char)scan->text[scan->at + 1] < 0x80 ? 2 : 1;
    return !zero;
}

static void scan_bracket(Scan *scan, char c) {
    if (c == '"') scan->in_string = !scan->in_string;
    if (scan->in_string) return;
    if (c == '{' || c == '[' || c == ',') scan->values++;
    if (c == '{' || c == '[') scan->depth++;
    if (c == '}' || c == ']') scan->depth--;
}

static int check_text(const char *text, size_t length, const char *path, Error *err) {
    Scan scan = {.text = text, .length = length};
    while (scan.at < length) {
        size_t here = scan.at, bytes = utf8_length((const unsigned char *)text + here, length - here);
        if (bytes == 0) return fail_input(err, "%s: JSON text is not UTF-8 at byte %zu", path, here);
        if (text[here] == '\0') return fail_input(err, "%s: zero byte in the JSON text at byte %zu", path, here);
        if (scan.in_string && text[here] == '\\') {
            if (!scan_escape(&scan)) return fail_input(err, "%s: \\u0000 in a JSON string at byte %zu", path, here);
            continue;
        }
        scan_bracket(&scan, text[here]);
        if (scan.depth > JSON_MAX_DEPTH) {
            return fail_input(err, "%s: JSON nested deeper than %d at byte %zu", path, JSON_MAX_DEPTH, here);
        }
        if (scan.values > JSON_MAX_VALUES) {
            return fail_input(err, "%s: JSON of more than %d values at byte %zu", path, JSON_MAX_VALUES, here);
        }
        scan.at += bytes;
    }
    return 0;
}

// The line, from 1, on which a byte stands.
static size_t line_of(const char *text, size_t byte) {
    size_t line = 1;
    for (size_t i = 0; i < byte; i++) line += text[i] == '\n';
    return line;
}

int json_parse_object(cJSON **json, const char *text, size_t length, const char *path, Error *err) {
    int code = check_text(text, length, path, err);
    if (code != 0) return code;

    const char *end = text;
    cJSON *root = cJSON_ParseWithLengthOpts(text, length, &end, false);
    size_t used = end != NULL ? (size_t)(end - text) : 0;
    while (root != NULL && used < length && strchr(" \t\r\n", text[used]) != NULL) used++;
    if (root == NULL || used != length)
        code = fail_input(err, "%s: not JSON at byte %zu, in line %zu", path, used, line_of(text, used));
    else if (!cJSON_IsObject(root))
        code = fail_input(err, "%s: expected a JSON object", path);
    if (code != 0) {
        cJSON_Delete(root);
        return code;
    }
    *json = root;
    return 0;
}

int json_read_object(cJSON **json, const char *path, size_t max_bytes, Error *err) {
    char *text = NULL;
    size_t length = 0;
    int code = file_read_whole(path, max_bytes, &text, &length, err);
    if (code != 0) return code;
    code = json_parse_object(json, text, length, path, err);
    free(text);
    return code;
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

int json_check_unique(const cJSON *object, const char *path, const char *where, Error *err) {
    size_t count = 0;
    for (const cJSON *item = object->child; item != NULL; item = item->next) count++;
    if (count < 2) return 0;
    const char **names = malloc(count * sizeof *names);
    if (names == NULL) return fail_fault(err, "%s: no memory for %zu names", path, count);

    size_t filled = 0;
    for (const cJSON *item = object->child; item != NULL; item = item->next) names[filled++] = item->string;
    qsort(names, count, sizeof *names, compare_names);
    int code = 0;
    for (size_t i = 1; i < count && code == 0; i++) {
        if (strcmp(names[i - 1], names[i]) != 0) continue;
        code = fail_input(err, "%s: %s\"%.200s\" stands twice, expected once", path, where, names[i]);
    }
    free(names);
    return code;
}

const cJSON *json_get(const cJSON *object, const char *name) { return cJSON_GetObjectItemCaseSensitive(object, name); }

bool json_is_count(const cJSON *json, uint64_t max, uint64_t *value) {
    const double exact = 9007199254740992.0; // 2^53
    if (!cJSON_IsNumber(json)) return false;
    double number = json->valuedouble;
    if (!(number >= 0 && number <= exact && number <= (double)max)) return false;
    if ((double)(uint64_t)number != number) return false;
    *value = (uint64_t)number;
    return true;
}

char *json_print(const cJSON *json, bool indented) {
    char *text = indented ? cJSON_Print(json) : cJSON_PrintUnformatted(json);
    const size_t length = text ? strlen(text) : 0;
    for (size_t at = 0, bytes; at < length; at += bytes ? bytes : 1) {
        bytes = utf8_length((const unsigned char *)text + at, length - at);
        if (bytes == 0) text[at] = '?';
    }
    return text;
}
