// The copy of its options that a run keeps, and what has changed since.
#include <cjson/cJSON.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/new_file.h"
#include "options/options_table.h"

static cJSON *value_to_json(const Options *options, const OptionSpec *spec) {
    const void *value = options_field_of(options, spec);
    char choice[32];
    switch (spec->type) {
    case TYPE_TEXT:
        return *(const char *const *)value ? cJSON_CreateString(*(const char *const *)value) : cJSON_CreateNull();
    case TYPE_INTEGER:
        return cJSON_CreateNumber((double)*(const int64_t *)value);
    case TYPE_REAL:
        return cJSON_CreateNumber(*(const double *)value);
    case TYPE_SWITCH:
    case TYPE_FLAG:
        return cJSON_CreateBool(*(const bool *)value);
    case TYPE_CHOICE:
        options_print_value(choice, sizeof choice, spec, options);
        return cJSON_CreateString(choice);
    case TYPE_HEADING:
        break;
    }
    return NULL;
}

static bool is_kept(const OptionSpec *spec) {
    return spec->type != TYPE_HEADING && spec->field != offsetof(Options, help) &&
           spec->field != offsetof(Options, version);
}

cJSON *options_to_json(const Options *options) {
    cJSON *root = cJSON_CreateObject();
    for (int i = 0; i < options_rows; i++) {
        if (!is_kept(&options_table[i])) continue;
        cJSON_AddItemToObject(root, options_table[i].name, value_to_json(options, &options_table[i]));
    }
    return root;
}

int options_save(const Options *options, const char *path, Error *err) {
    cJSON *root = options_to_json(options);
    char *text = json_print(root, true);
    cJSON_Delete(root);
    if (!text) return fail_fault(err, "%s: out of memory", path);
    int code = file_write_whole(path, text, strlen(text), err);
    cJSON_free(text);
    return code;
}

// ---- read back

// Numbers and texts go through the parser of the command line, and so through its bounds.
static int value_from_json(Options *options, const OptionSpec *spec, const cJSON *value, Error *err) {
    char number[40];
    switch (spec->type) {
    case TYPE_SWITCH:
    case TYPE_FLAG:
        if (!cJSON_IsBool(value)) break;
        *(bool *)options_field(options, spec) = cJSON_IsTrue(value);
        return 0;
    case TYPE_INTEGER:
    case TYPE_REAL:
        if (!cJSON_IsNumber(value)) break;
        snprintf(number, sizeof number, spec->type == TYPE_INTEGER ? "%.0f" : "%.17g", value->valuedouble);
        return options_set(options, spec, number, err);
    default:
        if (cJSON_IsNull(value) && spec->type == TYPE_TEXT) return 0;
        if (cJSON_IsString(value)) return options_set(options, spec, value->valuestring, err);
    }
    return fail_input(err, "option --%s: expected another type of value", spec->name);
}

int options_from_json(Options *options, const cJSON *json, const char *where, Error *err) {
    Error why = {0};
    int code = options_set_defaults(options, err);
    for (int i = 0; !code && i < options_rows; i++) {
        const OptionSpec *spec = &options_table[i];
        const cJSON *value = is_kept(spec) ? json_get(json, spec->name) : NULL;
        if (value && value_from_json(options, spec, value, &why)) code = fail_input(err, "%s: %s", where, why.message);
    }
    return code;
}

// A step's tokens are what counts, and compared besides.
static bool divides_a_step(const OptionSpec *spec) {
    return spec->field == offsetof(Options, batch_size) || spec->field == offsetof(Options, grad_accum);
}

// Texts in full, whatever of them can be shown.
static bool differs(const OptionSpec *spec, const Options *was, const Options *is, const char *before,
                    const char *now) {
    if (spec->type != TYPE_TEXT) return strcmp(before, now) != 0;
    const char *a = *(const char *const *)options_field_of(was, spec);
    const char *b = *(const char *const *)options_field_of(is, spec);
    return strcmp(a ? a : "", b ? b : "") != 0;
}

void options_compare(const Options *was, const Options *is, bool other_ranks, OptionsReport report, void *context) {
    char before[64], now[64];
    for (int i = 0; i < options_rows; i++) {
        const OptionSpec *spec = &options_table[i];
        if (spec->effect != EFFECT_RESULT || (other_ranks && divides_a_step(spec))) continue;
        if (is->recipe && options_set_by_recipe(spec)) continue; // recipes are compared for themselves
        options_print_value(before, sizeof before, spec, was);
        options_print_value(now, sizeof now, spec, is);
        if (differs(spec, was, is, before, now)) report(context, spec->name, before, now);
    }
}

// Files may lie elsewhere on each machine: what they say is compared.
static bool is_shared(const OptionSpec *spec) { return is_kept(spec) && !spec->own && spec->effect != EFFECT_CONTENT; }

void options_visit_shared(const Options *options, OptionsVisit visit, void *context) {
    char value[256];
    for (int i = 0; i < options_rows; i++) {
        const OptionSpec *spec = &options_table[i];
        if (!is_shared(spec)) continue;
        const char *text = spec->type == TYPE_TEXT ? *(const char *const *)options_field_of(options, spec) : NULL;
        options_print_value(value, sizeof value, spec, options);
        visit(context, spec->name, text ? text : value);
    }
}

const char *options_effect(const char *name) {
    static const char *const names[] = {NULL, "none", "result", "content", "start"};
    const OptionSpec *spec = options_find(name);
    return spec ? names[spec->effect] : NULL;
}
