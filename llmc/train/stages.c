#include "train/stages.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "model/llama3.h"
#include "options/options_table.h"
#include "recipe/flops.h"
#include "train/stage_change.h"
#include "train/stage_tasks.h"

// ---- what a stage says becomes the run's

// Samples are taken at the stage's last step and every n-th before it.
static int64_t first_sample(const StagePlace *place, const Stage *s) {
    return place->end_step - (s->average_last_steps - 1) / s->average_every * s->average_every;
}

static void take_options(Run *run, const StagePlace *place) {
    const Stage *s = stage_place_stage(place);
    Options *o = &run->options;
    o->batch_size = s->batch_size;
    o->seq_len = s->seq_len;
    o->grad_accum = s->grad_accum;
    o->tokens_per_step = s->tokens_per_step;
    o->document_mask = s->document_mask;
    o->average_from = s->average_last_steps ? first_sample(place, s) : 0;
    o->average_every = s->average_last_steps ? s->average_every : 1;
    o->eval_every = s->eval_every;
    o->eval_tasks_every = s->tasks_every;
    o->steps = stage_place_steps(place);
    run->stage_end = place->end_step;
}

void stages_configure(LlamaConfig *config, const StagePlace *place) {
    const Stage *s = stage_place_stage(place);
    if (!s) return;
    if (s->rope_theta > 0) config->rope_theta = s->rope_theta;
    if (s->has_rope_scaling) {
        config->rope_type = s->rope_type;
        config->rope_factor = s->rope_factor;
        config->rope_low_freq_factor = s->rope_low_freq_factor;
        config->rope_high_freq_factor = s->rope_high_freq_factor;
        config->rope_original_max_position = s->rope_original_max_position;
    }
    for (int i = 0; i <= place->stage; i++) { // rows may have been longer before
        const int T = (int)place->recipe->stages[i].seq_len;
        if (config->max_position_embeddings < T) config->max_position_embeddings = T;
    }
}

// FLOPs of the stages to come.
static double later_work(const Trainer *t) {
    const StagePlace *place = &t->state.place;
    const ParameterTable *table = llama3_parameters(t->model);
    double work = 0;
    for (int i = place->stage + 1; i < place->recipe->num_stages; i++) {
        const Stage *s = &place->recipe->stages[i];
        work += (double)s->tokens * flops_per_token(&t->run.config, table, (int)s->seq_len);
    }
    return work;
}

void stages_pace(Trainer *t) {
    t->pace.flops_per_token = flops_per_token(&t->run.config, llama3_parameters(t->model), (int)t->run.options.seq_len);
    if (t->state.place.recipe) t->pace.later_work = later_work(t);
}

// ---- at the start

static int check_sample(Options *o, const Recipe *recipe, Error *err) {
    for (int i = 0; i < recipe->num_stages; i++) {
        const int64_t T = recipe->stages[i].seq_len;
        if (o->sample_tokens <= T) continue;
        if (o->sample_every && options_given(o, "sample-tokens"))
            return fail_input(err, "--sample-tokens %lld: expected at most %lld, the seq_len of %s: stages[%d]",
                              (long long)o->sample_tokens, (long long)T, recipe->path, i);
        o->sample_tokens = T;
    }
    return 0;
}

static int read_recipe(Trainer *t, Error *err) {
    Recipe *recipe = NULL;
    int code = recipe_open(&recipe, t->run.options.recipe, err);
    if (code) return code;
    code = stage_place_begin(&t->state.place, recipe, err);
    if (!code) code = recipe_settle(recipe, t->run.team.size, t->run.config.max_position_embeddings, err);
    if (!code) stage_place_enter(&t->state.place, 0, 0, 0);
    return code ? code : check_sample(&t->run.options, recipe, err);
}

int stages_open(Trainer *t, Error *err) {
    StagePlace *place = &t->state.place;
    if (!t->run.options.recipe && json_get(t->resume.state, "stage"))
        return fail_input(err, "--resume: %s is of a run with a recipe: expected --recipe FILE", t->resume.folder);
    if (!t->run.options.recipe) return 0;
    int code = read_recipe(t, err);
    if (!code && t->resume.folder[0]) code = stage_place_take(place, &t->resume, err);
    if (code) return code;
    take_options(&t->run, place);
    stages_configure(&t->run.config, place);
    return 0;
}

RowShape *stages_rows(const Trainer *t, int *count) {
    const Recipe *recipe = t->state.place.recipe;
    RowShape *rows = recipe ? malloc((size_t)recipe->num_stages * sizeof *rows) : NULL;
    *count = rows ? recipe->num_stages : 0;
    for (int i = 0; i < *count; i++) {
        const Stage *s = &recipe->stages[i];
        rows[i] = (RowShape){(int)s->batch_size, (int)s->seq_len, (int)s->grad_accum};
    }
    return rows;
}

bool stages_average(const Recipe *recipe) {
    for (int i = 0; recipe && i < recipe->num_stages; i++)
        if (recipe->stages[i].average_last_steps) return true;
    return false;
}

// ---- data

// Begins the span that the place is in, at those cursors. A stage that has no step left has none.
static int begin_span(TrainData *data, StagePlace *place, const MixtureCursor *at, Error *err) {
    double weights[RECIPE_MAX_SOURCES], weights_at_end[RECIPE_MAX_SOURCES];
    const Stage *s = stage_place_stage(place);
    const int64_t rows = stage_place_span(place, weights, weights_at_end);
    Error why = {0};
    MixtureSpan span = {.rows = rows,
                        .weights = weights,
                        .weights_at_end = weights_at_end,
                        .T = (int)s->seq_len,
                        .document_mask = s->document_mask};
    if (rows == 0 || !mixture_begin(data->mixture, &span, at, &why)) return 0;
    err->code = why.code;
    snprintf(err->message, sizeof err->message, "%.200s: stages[%d]: %.800s", place->recipe->path, place->stage,
             why.message);
    return why.code;
}

static bool next_span(StagePlace *place) {
    if (place->span_end < place->end_step) {
        place->span_step = place->span_end;
    } else {
        if (place->stage + 1 == place->recipe->num_stages) return false;
        stage_place_enter(place, place->stage + 1, place->end_step, 0);
    }
    return true;
}

// Begins every span to come, one after the other.
static int check_sources(Trainer *t, Error *err) {
    StagePlace walk = t->state.place;
    walk.span = NULL;
    int code = begin_span(&t->data, &walk, walk.began, err);
    while (!code && next_span(&walk)) code = begin_span(&t->data, &walk, NULL, err);
    cJSON_Delete(walk.span);
    return code;
}

static int open_validation(Trainer *t, int T, Error *err) {
    LoaderSpec spec = task_loader(&t->run.options, &t->run.team);
    spec.T = T;
    return train_data_reopen_validation(&t->data, t->state.place.recipe, &spec, t->run.config.vocab_size, err);
}

static int open_tasks(Trainer *t, int T, Error *err) {
    EvalTasks *tasks = NULL;
    const char *pattern = t->run.options.eval_tasks;
    if (!pattern || !team_leads(&t->run.team)) return 0;
    int code = evaltasks_open(&tasks, pattern, T, t->run.config.vocab_size, tokenizer_sha256(t->data.tokenizer), err);
    if (code) return code;
    evaltasks_close(t->eval_tasks);
    t->eval_tasks = tasks;
    return 0;
}

// What is open only later is opened once before, to be refused before the first step.
static int check_stages(Trainer *t, Error *err) {
    const Recipe *recipe = t->state.place.recipe;
    int code = open_validation(t, (int)recipe_longest_row(recipe), err);
    if (!code) code = open_validation(t, (int)t->run.options.seq_len, err);
    for (int i = 0; !code && i < recipe->num_stages; i++) code = open_tasks(t, (int)recipe->stages[i].seq_len, err);
    if (!code) code = open_tasks(t, (int)t->run.options.seq_len, err);
    return code ? code : stage_tasks_check(t, err);
}

int stages_begin(Trainer *t, Error *err) {
    StagePlace *place = &t->state.place;
    if (!place->recipe) return 0;
    int code = check_stages(t, err);
    if (!code) code = check_sources(t, err);
    return code ? code : begin_span(&t->data, place, place->began, err);
}

// ---- from stage to stage

// Is the model to rotate otherwise?
static bool other_rope(const LlamaConfig *a, const LlamaConfig *b) {
    return a->rope_theta != b->rope_theta || a->rope_type != b->rope_type || a->rope_factor != b->rope_factor ||
           a->rope_low_freq_factor != b->rope_low_freq_factor || a->rope_high_freq_factor != b->rope_high_freq_factor ||
           a->rope_original_max_position != b->rope_original_max_position;
}

static void shape_model(Llama3 *model, const LlamaConfig *config, const Options *o) {
    const RopeScaling scaling = {config->rope_factor, config->rope_low_freq_factor, config->rope_high_freq_factor,
                                 config->rope_original_max_position};
    llama3_set_rows(model, (RowShape){(int)o->batch_size, (int)o->seq_len, (int)o->grad_accum});
    if (other_rope(llama3_config(model), config))
        llama3_set_rope(model, config->rope_theta, config->rope_type == ROPE_LLAMA3 ? &scaling : NULL);
}

static int continue_data(Trainer *t, const Stage *before, Error *err) {
    StagePlace *place = &t->state.place;
    const Stage *s = stage_place_stage(place);
    const size_t bytes = (size_t)place->recipe->num_sources * sizeof *place->now;
    memcpy(place->began, place->now, bytes);
    int code = begin_span(&t->data, place, place->began, err);
    if (code || s == before) return code;
    const bool longer = s->seq_len != before->seq_len;
    if (longer || s->batch_size != before->batch_size || s->document_mask != before->document_mask)
        code = open_validation(t, (int)s->seq_len, err);
    return code || !longer ? code : open_tasks(t, (int)s->seq_len, err);
}

static void print_stage(Trainer *t) {
    char text[512];
    const StagePlace *place = &t->state.place;
    stage_describe_change(text, sizeof text, place->recipe, place->stage);
    progress_print(&t->run.progress, "step %lld: stage %d of %d begins, %s", (long long)t->state.step, place->stage + 1,
                   place->recipe->num_stages, text);
}

static int enter_next(Trainer *t, Error *err) {
    StagePlace *place = &t->state.place;
    const Stage *before = stage_place_stage(place);
    stage_place_enter(place, place->stage + 1, t->state.step, t->state.tokens);
    take_options(&t->run, place);
    stages_configure(&t->run.config, place);
    t->state.average_samples = 0;
    t->state.spikes = (SpikeStats){0}; // losses of other rows and other data are no measure of what is a spike
    shape_model(t->model, &t->run.config, &t->run.options);
    int code = continue_data(t, before, err);
    stages_pace(t);
    if (!code) print_stage(t);
    return code;
}

int stages_follow(Trainer *t, Error *err) {
    StagePlace *place = &t->state.place;
    if (!place->recipe || t->state.step < place->span_end) return 0;
    if (t->state.step >= place->end_step) return team_agree(&t->run.team, enter_next(t, err), err);
    place->span_step = t->state.step;
    return team_agree(&t->run.team, continue_data(t, stage_place_stage(place), err), err);
}

double stages_lr(const Trainer *t) {
    const TrainState *state = &t->state;
    const StagePlace *place = &state->place;
    if (!place->recipe) return schedule_lr(&t->schedule, state->step);
    return recipe_rate(place->recipe, place->stage, state->step - place->first_step, state->step, state->tokens);
}

// ---- after a step

// Tells of the sources that the span's rows before `row` have used up.
static void tell_used_up(Trainer *t, int64_t row) {
    StagePlace *place = &t->state.place;
    for (int i = 0; i < place->recipe->num_sources; i++) {
        const RecipeSource *source = &place->recipe->sources[i];
        const int64_t first = mixture_exhausted(t->data.mixture, i);
        if (first < 0 || first >= row || place->used_up[i]) continue;
        place->used_up[i] = true;
        log_exhausted(&t->run.log, t->state.step, source->name, place->now[i].tokens);
        progress_print(&t->run.progress,
                       "step %lld: source %s is used up (max_epochs %g): its share goes to the others",
                       (long long)t->state.step, source->name, source->max_epochs);
    }
}

void stages_note_position(Trainer *t) {
    StagePlace *place = &t->state.place;
    if (!place->recipe) return;
    const Stage *s = stage_place_stage(place);
    const int64_t row = (t->state.step - place->span_step) * (s->tokens_per_step / s->seq_len);
    mixture_position(t->data.mixture, row, place->now);
    mixture_epochs(t->data.mixture, row, place->epochs);
    tell_used_up(t, row);
}
