// Memory plans for programs that are not written in C: a shape as JSON in, bytes as JSON out.
#include <cjson/cJSON.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "model/llama3_create.h"

typedef enum { WHOLE, FLAG, NUMBER, TEXT, RECOMPUTE, FP32_OR_BF16, MASTER, PLACE, ROWS } FieldKind;
static const char *const expected[] = {
    [WHOLE] = "a whole number from 0 on",
    [FLAG] = "true or false",
    [NUMBER] = "a number",
    [TEXT] = "text",
    [RECOMPUTE] = "none|cheap|block", // names of an enum's values
    [FP32_OR_BF16] = "fp32|bf16",
    [MASTER] = "fp32|none",
    [PLACE] = "device|host",
    [ROWS] = "a list of [B, T, micro_batches]",
};

typedef struct {
    const char *name;
    FieldKind kind;
    size_t at; // in RunShape
} Field;

// The names are those of the structs' members. Members on which memory does not depend (communicators, the preference) are
// left out, and attention, whose library plans for the GPU at hand.
static const Field fields[] = {
    {"B", WHOLE, offsetof(RunShape, B)},
    {"T", WHOLE, offsetof(RunShape, T)},
    {"micro_batches", WHOLE, offsetof(RunShape, micro_batches)},
    {"rows", ROWS, offsetof(RunShape, rows)},
    {"training", FLAG, offsetof(RunShape, training)},
    {"recompute", RECOMPUTE, offsetof(RunShape, recompute)},
    {"activations", PLACE, offsetof(RunShape, activations)},
    {"moments", FP32_OR_BF16, offsetof(RunShape, moments)},
    {"master_weights", MASTER, offsetof(RunShape, master_weights)},
    {"optimizer_state", PLACE, offsetof(RunShape, optimizer_state)},
    {"zero", WHOLE, offsetof(RunShape, parallel.zero)},
    {"shards", WHOLE, offsetof(RunShape, parallel.shards)},
    {"shard", WHOLE, offsetof(RunShape, parallel.shard)},
    {"replicas", WHOLE, offsetof(RunShape, parallel.replicas)},
    {"grad_reduce", FP32_OR_BF16, offsetof(RunShape, parallel.grad_reduce)},
    {"comparisons", FLAG, offsetof(RunShape, comparisons)},
    {"average", FLAG, offsetof(RunShape, average)},
    {"only", TEXT, offsetof(RunShape, part.only)},
    {"lora_rank", WHOLE, offsetof(RunShape, part.lora_rank)},
    {"lora_alpha", NUMBER, offsetof(RunShape, part.lora_alpha)},
    {"lora_targets", TEXT, offsetof(RunShape, part.lora_targets)},
};
enum { FIELDS = sizeof fields / sizeof fields[0] };

static const Field *find_field(const char *name) {
    for (int i = 0; i < FIELDS; i++)
        if (strcmp(fields[i].name, name) == 0) return &fields[i];
    return NULL;
}

// *to = the place of name among those that | separates.
static bool set_choice(int *to, const char *names, const char *name) {
    if (!name) return false;
    for (*to = 0;; ++*to) {
        const size_t length = strcspn(names, "|");
        if (strlen(name) == length && strncmp(names, name, length) == 0) return true;
        if (!names[length]) return false;
        names += length + 1;
    }
}

static bool set_row(RowShape *row, const cJSON *value) {
    int *const to[] = {&row->B, &row->T, &row->micro_batches};
    bool good = cJSON_GetArraySize(value) == 3;
    for (int i = 0; good && i < 3; i++) {
        uint64_t whole = 0;
        good = json_is_count(cJSON_GetArrayItem(value, i), INT_MAX, &whole);
        *to[i] = (int)whole;
    }
    return good;
}

// shape->rows is the caller's to free.
static bool set_rows(RunShape *shape, const cJSON *value) {
    const int count = cJSON_GetArraySize(value);
    RowShape *rows = count ? calloc((size_t)count, sizeof *rows) : NULL;
    shape->rows = rows;
    if (!cJSON_IsArray(value) || (count && !rows)) return false;
    for (; shape->num_rows < count; shape->num_rows++)
        if (!set_row(&rows[shape->num_rows], cJSON_GetArrayItem(value, shape->num_rows))) return false;
    return true;
}

// Texts stay the JSON's.
static bool set_field(RunShape *shape, const Field *field, const cJSON *value) {
    void *to = (char *)shape + field->at;
    uint64_t whole;
    switch (field->kind) {
    case WHOLE:
        if (!json_is_count(value, INT_MAX, &whole)) return false;
        *(int *)to = (int)whole;
        return true;
    case FLAG:
        *(bool *)to = cJSON_IsTrue(value);
        return cJSON_IsBool(value);
    case NUMBER:
        *(double *)to = value->valuedouble;
        return cJSON_IsNumber(value);
    case RECOMPUTE:
    case FP32_OR_BF16:
    case MASTER:
    case PLACE:
        return set_choice(to, expected[field->kind], cJSON_GetStringValue(value));
    case ROWS:
        return set_rows(shape, value);
    default:
        *(const char **)to = value->valuestring;
        return cJSON_IsString(value);
    }
}

static int read_shape(RunShape *shape, const cJSON *json, Error *err) {
    int code = json_check_unique(json, "shape", "the shape", err);
    *shape = (RunShape){.B = 0};
    for (const cJSON *member = json->child; !code && member; member = member->next) {
        const Field *field = find_field(member->string);
        if (!field)
            code = fail_input(err, "shape: unknown field '%.100s'", member->string);
        else if (!set_field(shape, field, member))
            code = fail_input(err, "shape: %s: expected %s", field->name, expected[field->kind]);
    }
    return code;
}

int llama3_plan_text(char *text, size_t capacity, const char *config_path, const char *shape_json, Error *err) {
    LlamaConfig config;
    MemoryPlan plan;
    RunShape shape = {.rows = NULL};
    cJSON *json = NULL;
    int code = json_parse_object(&json, shape_json, strlen(shape_json), "shape", err);
    if (code) return code;
    code = read_shape(&shape, json, err);
    if (!code) code = llama_config_read(&config, config_path, err);
    if (!code) code = llama3_plan_memory(&plan, &config, &shape, err);
    if (!code) code = memory_text(text, capacity, &plan, err);
    free((void *)shape.rows);
    cJSON_Delete(json);
    return code;
}
