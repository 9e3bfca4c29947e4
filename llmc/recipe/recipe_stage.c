// The stages of a recipe out of its file, and what each takes from the one before.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "recipe/recipe_members.h"

// ---- the mixture

typedef struct {
    const char *source;
    double weight, weight_at_end; // NAN: not given
} WeightText;

static const Member weight_members[] = {
    MEMBER(WeightText, source, "source", recipe_take_text, .required = true),
    MEMBER(WeightText, weight, "weight", recipe_take_real, .min = 0, .max = 1e9, .required = true, .expected = "> 0"),
    MEMBER(WeightText, weight_at_end, "weight_at_end", recipe_take_real, .min = 0, .max = 1e9),
    {0},
};

static int find_source(const Recipe *recipe, const cJSON *json, const char *name, int *source, Error *err) {
    char expected[300] = "one of";
    for (int i = 0; i < recipe->num_sources; i++) {
        const size_t used = strlen(expected);
        *source = i;
        if (strcmp(recipe->sources[i].name, name) == 0) return 0;
        snprintf(expected + used, sizeof expected - used, "%s %.60s", i ? "," : "", recipe->sources[i].name);
    }
    return recipe_refuse(recipe, json_get(json, "source"), expected, err);
}

static int take_weight(Recipe *recipe, const cJSON *json, Stage *stage, int i, Error *err) {
    WeightText text = {.weight_at_end = NAN};
    MixtureWeight *weight = &stage->mixture[i];
    int code = recipe_take_object(recipe, weight_members, json, &text, err);
    if (!code) code = find_source(recipe, json, text.source, &weight->source, err);
    for (int j = 0; !code && j < i; j++)
        if (stage->mixture[j].source == weight->source)
            code = recipe_refuse(recipe, json_get(json, "source"), "each source once", err);
    weight->weight = text.weight;
    weight->weight_at_end = isnan(text.weight_at_end) ? text.weight : text.weight_at_end;
    if (!code && text.weight == 0 && !(text.weight_at_end > 0))
        code = recipe_refuse(recipe, json_get(json, "weight"), "> 0, or 0 beside a weight_at_end > 0", err);
    return code;
}

static int take_mixture(Recipe *recipe, const Member *member, const cJSON *json, void *to, Error *err) {
    Stage *stage = (Stage *)((char *)to - member->offset);
    double sum = 0, sum_at_end = 0;
    int code = recipe_begin_list(recipe, json, RECIPE_MAX_SOURCES, sizeof *stage->mixture, (void *)&stage->mixture,
                                 &stage->num_weights, err);
    const cJSON *item = code ? NULL : json->child;
    for (int i = 0; !code && item; item = item->next, i++) {
        code = take_weight(recipe, item, stage, i, err);
        sum += stage->mixture[i].weight;
        sum_at_end += stage->mixture[i].weight_at_end;
    }
    if (!code && !(sum > 0)) code = recipe_refuse(recipe, json, "a weight > 0", err);
    if (!code && !(sum_at_end > 0)) code = recipe_refuse(recipe, json, "a weight_at_end > 0", err);
    return code;
}

// Takes over the weights with which the stage before ended; a source that had faded out is gone.
static int continue_mixture(Recipe *recipe, Stage *stage, Error *err) {
    const MixtureWeight *before = stage->mixture;
    const int count = stage->num_weights;
    stage->mixture = recipe_alloc(recipe, (size_t)count * sizeof *before, err);
    if (!stage->mixture) return ERROR_FAULT;
    stage->num_weights = 0;
    for (int i = 0; i < count; i++)
        if (before[i].weight_at_end > 0)
            stage->mixture[stage->num_weights++] =
                (MixtureWeight){before[i].source, before[i].weight_at_end, before[i].weight_at_end};
    return 0;
}

// ---- RoPE

typedef struct {
    const char *rope_type;
    double factor, low_freq_factor, high_freq_factor;
    int64_t original_max_position_embeddings;
} ScalingText;

// The bounds are those of llama_config_check.
static int take_rope_scaling(Recipe *recipe, const Member *member, const cJSON *json, void *to, Error *err) {
    static const Member members[] = {
        MEMBER(ScalingText, rope_type, "rope_type", recipe_take_text, .required = true),
        MEMBER(ScalingText, factor, "factor", recipe_take_real, .min = 1, .max = 1e6, .required = true),
        MEMBER(ScalingText, low_freq_factor, "low_freq_factor", recipe_take_real, .min = 1e-3, .max = 1e6,
               .required = true),
        MEMBER(ScalingText, high_freq_factor, "high_freq_factor", recipe_take_real, .min = 1e-3, .max = 1e6,
               .required = true),
        MEMBER(ScalingText, original_max_position_embeddings, "original_max_position_embeddings", recipe_take_count,
               .min = 1, .max = 1 << 27, .required = true),
        {0},
    };
    Stage *stage = (Stage *)((char *)to - member->offset);
    ScalingText text = {0};
    stage->has_rope_scaling = true;
    int code = cJSON_IsNull(json) ? 0 : recipe_take_object(recipe, members, json, &text, err);
    if (!code && text.rope_type && strcmp(text.rope_type, "llama3") != 0)
        code = recipe_refuse(recipe, json_get(json, "rope_type"), "\"llama3\", or null in place of the object", err);
    if (!code && text.rope_type && text.low_freq_factor >= text.high_freq_factor)
        code = recipe_refuse(recipe, json_get(json, "low_freq_factor"), "less than high_freq_factor", err);
    stage->rope_type = text.rope_type ? ROPE_LLAMA3 : ROPE_DEFAULT;
    stage->rope_factor = text.factor;
    stage->rope_low_freq_factor = text.low_freq_factor;
    stage->rope_high_freq_factor = text.high_freq_factor;
    stage->rope_original_max_position = (int)text.original_max_position_embeddings;
    return code;
}

// ---- averaging and evaluations

static int take_average(Recipe *recipe, const Member *member, const cJSON *json, void *to, Error *err) {
    static const Member members[] = {
        MEMBER(Stage, average_last_steps, "last_steps", recipe_take_count, .min = 1, .max = RECIPE_MOST_STEPS,
               .required = true),
        MEMBER(Stage, average_every, "every", recipe_take_count, .min = 1, .max = RECIPE_MOST_STEPS),
        {0},
    };
    Stage *stage = (Stage *)((char *)to - member->offset);
    stage->average_last_steps = 0;
    stage->average_every = cJSON_IsNull(json) ? 0 : 1;
    return cJSON_IsNull(json) ? 0 : recipe_take_object(recipe, members, json, stage, err);
}

static int take_tasks(Recipe *recipe, const Member *member, const cJSON *json, void *to, Error *err) {
    static const Member text = {.name = "tasks"};
    Stage *stage = (Stage *)((char *)to - member->offset);
    int code = recipe_begin_list(recipe, json, RECIPE_MAX_LIST, sizeof *stage->tasks, (void *)&stage->tasks,
                                 &stage->num_tasks, err);
    const cJSON *item = code ? NULL : json->child;
    for (int i = 0; !code && item; item = item->next, i++)
        code = recipe_take_text(recipe, &text, item, (void *)&stage->tasks[i], err);
    return code;
}

static int take_evaluate(Recipe *recipe, const Member *member, const cJSON *json, void *to, Error *err) {
    static const Member members[] = {
        MEMBER(Stage, eval_every, "every", recipe_take_count, .min = 1, .max = RECIPE_MOST_STEPS),
        MEMBER(Stage, tasks, "tasks", take_tasks),
        MEMBER(Stage, tasks_every, "tasks_every", recipe_take_count, .min = 1, .max = RECIPE_MOST_STEPS),
        {0},
    };
    Stage *stage = (Stage *)((char *)to - member->offset);
    stage->eval_every = stage->tasks_every = 0;
    stage->tasks = NULL;
    stage->num_tasks = 0;
    if (cJSON_IsNull(json)) return 0;
    int code = recipe_take_object(recipe, members, json, stage, err);
    if (!code && stage->num_tasks && !stage->tasks_every) code = recipe_miss(recipe, json, "tasks_every", err);
    if (!code && stage->tasks_every && !stage->num_tasks) code = recipe_miss(recipe, json, "tasks", err);
    return code;
}

// ---- how a stage ends early

static const Member condition_members[] = {
    MEMBER(EndCondition, task, "task", recipe_take_text, .required = true),
    MEMBER(EndCondition, metric, "metric", recipe_take_text, .required = true),
    MEMBER(EndCondition, at_least, "at_least", recipe_take_real, .min = -1e30, .max = 1e30, .required = true),
    {0},
};

static int take_conditions(Recipe *recipe, const Member *member, const cJSON *json, void *to, Error *err) {
    Stage *stage = (Stage *)((char *)to - member->offset);
    int code = recipe_begin_list(recipe, json, RECIPE_MAX_LIST, sizeof *stage->conditions, (void *)&stage->conditions,
                                 &stage->num_conditions, err);
    const cJSON *item = code ? NULL : json->child;
    for (int i = 0; !code && item; item = item->next, i++)
        code = recipe_take_object(recipe, condition_members, item, &stage->conditions[i], err);
    return code;
}

static int take_ends_when(Recipe *recipe, const Member *member, const cJSON *json, void *to, Error *err) {
    static const Member members[] = {
        MEMBER(Stage, check_every, "every", recipe_take_count, .min = 1, .max = RECIPE_MOST_STEPS, .required = true),
        MEMBER(Stage, conditions, "all", take_conditions, .required = true),
        {0},
    };
    return recipe_take_object(recipe, members, json, (char *)to - member->offset, err);
}

// ---- a stage

static const Member stage_members[] = {
    MEMBER(Stage, name, "name", recipe_take_text, .required = true),
    MEMBER(Stage, tokens, "tokens", recipe_take_count, .min = 1, .max = RECIPE_MOST_TOKENS),
    MEMBER(Stage, steps, "steps", recipe_take_count, .min = 1, .max = RECIPE_MOST_STEPS),
    MEMBER(Stage, seq_len, "seq_len", recipe_take_count, .min = 1, .max = RECIPE_MOST_ROWS),
    MEMBER(Stage, tokens_per_step, "tokens_per_step", recipe_take_count, .min = 1, .max = RECIPE_MOST_TOKENS),
    MEMBER(Stage, batch_size, "batch_size", recipe_take_count, .min = 1, .max = RECIPE_MOST_ROWS),
    MEMBER(Stage, rate, "learning_rate", recipe_take_rate),
    MEMBER(Stage, mixture, "mixture", take_mixture),
    MEMBER(Stage, document_mask, "document_mask", recipe_take_flag),
    MEMBER(Stage, rope_theta, "rope_theta", recipe_take_real, .min = 1, .max = 1e15),
    MEMBER(Stage, rope_type, "rope_scaling", take_rope_scaling),
    MEMBER(Stage, average_last_steps, "average", take_average),
    MEMBER(Stage, eval_every, "evaluate", take_evaluate),
    MEMBER(Stage, conditions, "ends_when", take_ends_when),
    {0},
};

static int check_length(const Recipe *recipe, const cJSON *json, const Stage *stage, Error *err) {
    if (stage->tokens && stage->steps)
        return recipe_refuse(recipe, json_get(json, "steps"), "none, as tokens says the length", err);
    return stage->tokens || stage->steps ? 0 : recipe_miss(recipe, json, "tokens or steps", err);
}

// What the first stage must say, and others take over.
static int check_whole(const Recipe *recipe, const cJSON *json, const Stage *stage, Error *err) {
    const char *missing = NULL;
    if (!stage->num_weights) missing = "mixture";
    if (!stage->batch_size) missing = "batch_size";
    if (!stage->tokens_per_step) missing = "tokens_per_step";
    if (!stage->seq_len) missing = "seq_len";
    return missing ? recipe_miss(recipe, json, missing, err) : 0;
}

static int check_stage(const Recipe *recipe, const cJSON *json, int number, Error *err) {
    const Stage *stage = &recipe->stages[number];
    int code = check_length(recipe, json, stage, err);
    if (!code) code = check_whole(recipe, json, stage, err);
    if (!code && !stage->rate.count && !recipe->rate.count) code = recipe_miss(recipe, json, "learning_rate", err);
    for (int i = 0; !code && i < number; i++)
        if (strcmp(recipe->stages[i].name, stage->name) == 0)
            code = recipe_refuse(recipe, json_get(json, "name"), "another name than the stages before it have", err);
    return code;
}

// What a stage takes from the one before it; `at_first` stands for that of the first.
static int begin_stage(Recipe *recipe, int number, Error *err) {
    static const Stage at_first = {.document_mask = true};
    Stage stage = number ? recipe->stages[number - 1] : at_first;
    stage.tokens = stage.steps = 0;
    stage.rate = (LearningRate){0};
    stage.conditions = NULL;
    stage.num_conditions = 0;
    stage.check_every = 0;
    int code = number ? continue_mixture(recipe, &stage, err) : 0;
    recipe->stages[number] = stage;
    return code;
}

int recipe_take_stages(Recipe *recipe, const Member *member, const cJSON *json, void *to, Error *err) {
    (void)member;
    (void)to;
    int count = 0;
    int code = recipe_begin_list(recipe, json, RECIPE_MAX_STAGES, sizeof(Stage), (void *)&recipe->stages, &count, err);
    const cJSON *item = code ? NULL : json->child;
    for (int i = 0; !code && item; item = item->next, i++) {
        code = begin_stage(recipe, i, err);
        if (!code) code = recipe_take_object(recipe, stage_members, item, &recipe->stages[i], err);
        if (!code) code = check_stage(recipe, item, i, err);
        recipe->num_stages = i + 1;
    }
    return code;
}
