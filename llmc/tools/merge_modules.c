// Which modules an adapter's configuration selects, as PEFT reads it.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/regex.h"
#include "tools/merge_internal.h"

// Patterns were checked when they were read; one that takes too long on this module selects nothing.
static bool matches(const char *pattern, const char *module) {
    bool found = false;
    return regex_fullmatch(&found, pattern, module) && found;
}

// Do the first `length` bytes of the name end so?
static bool ends_at(const char *module, size_t length, const char *end) {
    const size_t size = strlen(end);
    return size <= length && strncmp(module + length - size, end, size) == 0;
}

// Is the module's name that, or does it end so after a dot?
static bool is_called(const char *module, const char *name) {
    const size_t length = strlen(module), size = strlen(name);
    return ends_at(module, length, name) && (size == length || module[length - size - 1] == '.');
}

static bool is_named(const cJSON *names, const char *module) {
    const cJSON *item = NULL;
    if (cJSON_IsString(names)) return matches(names->valuestring, module);
    cJSON_ArrayForEach(item, names) if (is_called(module, item->valuestring)) return true;
    return false;
}

static bool is_spelt_out(const cJSON *names, const char *module) {
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, names) if (strcmp(item->valuestring, module) == 0) return true;
    return false;
}

// The module, or one that it is part of, has one of these names.
static bool is_within(const cJSON *names, const char *module) {
    char part[MODULE_NAME];
    snprintf(part, sizeof part, "%s", module);
    for (;;) {
        if (names && is_named(names, part)) return true;
        char *dot = strrchr(part, '.');
        if (!dot) return false;
        *dot = 0;
    }
}

// ---- layers_to_transform

static bool has_number(const cJSON *layers, int number) {
    const cJSON *item = NULL;
    if (cJSON_IsNumber(layers)) return layers->valuedouble == number;
    cJSON_ArrayForEach(item, layers) if (item->valuedouble == number) return true;
    return false;
}

static bool is_in_layer(const char *pattern, const char *number, const char *module) {
    char whole[2 * MODULE_NAME];
    const int length = snprintf(whole, sizeof whole, "(?:.*\\.)?%s\\.%s\\..*", pattern, number);
    return length < (int)sizeof whole && matches(whole, module);
}

// Is what stands before the number one of the patterns? (Llama's modules have one number.)
static bool is_counted(const cJSON *patterns, const char *number, const char *module) {
    const cJSON *item = NULL;
    if (!patterns) return true;
    if (cJSON_IsString(patterns)) return is_in_layer(patterns->valuestring, number, module);
    cJSON_ArrayForEach(item, patterns) if (is_in_layer(item->valuestring, number, module)) return true;
    return false;
}

static bool is_of_layers(const AdapterFields *f, const char *module) {
    char number[16];
    const char *digit = strpbrk(module, "0123456789");
    while (digit && (digit == module || digit[-1] != '.' || digit[strspn(digit, "0123456789")] != '.'))
        digit = strpbrk(digit + strspn(digit, "0123456789"), "0123456789");
    if (!digit) return false;
    const size_t length = strspn(digit, "0123456789");
    if (length >= sizeof number) return false;
    snprintf(number, sizeof number, "%.*s", (int)length, digit);
    return has_number(f->layers, (int)strtol(number, NULL, 10)) && is_counted(f->layers_pattern, number, module);
}

// ---- what is asked

const char *merge_leaves_out(const AdapterFields *f, const char *module) {
    if (f->excluded && is_named(f->excluded, module)) return "exclude_modules";
    if (is_within(f->saved, module)) return "modules_to_save";
    if (!is_named(f->targets, module)) return "target_modules";
    if (!f->layers || is_spelt_out(f->targets, module) || is_of_layers(f, module)) return NULL;
    return "layers_to_transform";
}

bool merge_is_saved(const AdapterFields *f, const char *module) {
    const cJSON *item = NULL;
    for (size_t length = strlen(module);; length--) {
        const bool part = module[length] == 0 || module[length] == '.';
        cJSON_ArrayForEach(item, f->saved) if (part && ends_at(module, length, item->valuestring)) return true;
        if (length == 0) return false;
    }
}

static double number_of(const cJSON *patterns, const char *module, double usual) {
    char whole[2 * MODULE_NAME];
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, patterns) {
        const int length = snprintf(whole, sizeof whole, "(.*\\.)?(%s)", item->string);
        if (length < (int)sizeof whole && matches(whole, module)) return item->valuedouble;
    }
    return usual;
}

int merge_module_rank(const AdapterFields *f, const char *module) {
    const double rank = number_of(f->ranks, module, f->rank);
    return rank >= 1 && rank <= 1 << 16 ? (int)rank : 0;
}

double merge_module_scale(const AdapterFields *f, const char *module) {
    const double rank = merge_module_rank(f, module), alpha = number_of(f->alphas, module, f->alpha);
    return alpha / (f->root ? sqrt(rank) : rank);
}
