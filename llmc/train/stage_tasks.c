#include "train/stage_tasks.h"

#include <fnmatch.h>
#include <string.h>

// ---- before the first step

static int find_task(const Trainer *t, const char *name) {
    for (int i = 0; t->eval_tasks && i < evaltasks_count(t->eval_tasks); i++)
        if (strcmp(evaltasks_name(t->eval_tasks, i), name) == 0) return i;
    return -1;
}

static int check_condition(const Trainer *t, int stage, int index, Error *err) {
    const Recipe *recipe = t->state.place.recipe;
    const EndCondition *c = &recipe->stages[stage].conditions[index];
    const int task = find_task(t, c->task);
    char where[64];
    snprintf(where, sizeof where, "stages[%d].ends_when.all[%d]", stage, index);
    if (!t->eval_tasks)
        return fail_input(err, "%s: %s.task: expected --eval-tasks GLOB with '%.100s' among its files", recipe->path,
                          where, c->task);
    if (task < 0)
        return fail_input(err, "%s: %s.task: expected a file of --eval-tasks '%.200s', found none named '%.100s'",
                          recipe->path, where, t->run.options.eval_tasks, c->task);
    if (evaltasks_measures(t->eval_tasks, task, c->metric)) return 0;
    return fail_input(err, "%s: %s.metric: expected one that '%.100s' has, found '%.100s'", recipe->path, where,
                      c->task, c->metric);
}

static int check_pattern(const Trainer *t, int stage, int index, Error *err) {
    const Recipe *recipe = t->state.place.recipe;
    const char *pattern = recipe->stages[stage].tasks[index], *files = t->run.options.eval_tasks;
    for (int i = 0; t->eval_tasks && i < evaltasks_count(t->eval_tasks); i++)
        if (fnmatch(pattern, evaltasks_name(t->eval_tasks, i), 0) == 0) return 0;
    return fail_input(
        err, "%s: stages[%d].evaluate.tasks[%d]: expected a file of --eval-tasks %s, found none named '%.100s'",
        recipe->path, stage, index, files ? files : "GLOB, which is missing", pattern);
}

static bool names_tasks(const Recipe *recipe) {
    for (int i = 0; i < recipe->num_stages; i++)
        if (recipe->stages[i].num_tasks || recipe->stages[i].num_conditions) return true;
    return false;
}

static int check_evaluations(const Trainer *t, int stage, Error *err) {
    const Stage *s = &t->state.place.recipe->stages[stage];
    int code = 0;
    if (s->eval_every && !t->data.num_val)
        return fail_input(err, "%s: stages[%d].evaluate.every: expected a source with a member val, found none",
                          t->state.place.recipe->path, stage);
    if (!team_leads(&t->run.team)) return 0; // rank 0 has the evaluations
    for (int i = 0; !code && i < s->num_tasks; i++) code = check_pattern(t, stage, i, err);
    for (int i = 0; !code && i < s->num_conditions; i++) code = check_condition(t, stage, i, err);
    return code;
}

int stage_tasks_check(const Trainer *t, Error *err) {
    const Recipe *recipe = t->state.place.recipe;
    int code = 0;
    for (int i = 0; !code && i < recipe->num_stages; i++) code = check_evaluations(t, i, err);
    if (code || !t->run.options.eval_tasks || names_tasks(recipe)) return code;
    return fail_input(err, "--eval-tasks '%.200s': expected a stage of %s with evaluate.tasks, found none",
                      t->run.options.eval_tasks, recipe->path);
}

// ---- after a step

static bool check_due(const StagePlace *place, int64_t step) {
    const Stage *s = stage_place_stage(place);
    return s && s->num_conditions && (step - place->first_step) % s->check_every == 0;
}

int stage_tasks_due(const Trainer *t, int due) {
    const StagePlace *place = &t->state.place;
    return check_due(place, t->state.step) ? due | LOG_TASK : due;
}

static bool is_listed(const Stage *s, const char *name) {
    for (int i = 0; i < s->num_tasks; i++)
        if (fnmatch(s->tasks[i], name, 0) == 0) return true;
    return false;
}

bool stage_tasks_include(const Trainer *t, const char *name) {
    const Stage *s = stage_place_stage(&t->state.place);
    const int64_t step = t->state.step, every = t->run.options.eval_tasks_every;
    if (!s) return true;
    if ((step >= t->run.stage_end || (every && step % every == 0)) && is_listed(s, name)) return true;
    for (int i = 0; check_due(&t->state.place, step) && i < s->num_conditions; i++)
        if (strcmp(s->conditions[i].task, name) == 0) return true;
    return false;
}

void stage_tasks_note(Trainer *t, const char *name, const EvalResult *result) {
    const Stage *s = stage_place_stage(&t->state.place);
    for (int i = 0; s && i < s->num_conditions; i++) {
        const EndCondition *c = &s->conditions[i];
        double value;
        if (strcmp(c->task, name) == 0 && eval_measure_named(result, c->metric, &value) && value >= c->at_least)
            t->conditions_met |= (uint64_t)1 << i;
    }
}

static void end_stage(Trainer *t) {
    StagePlace *place = &t->state.place;
    const Stage *s = stage_place_stage(place);
    const long long early = place->end_step - t->state.step, step = t->state.step;
    place->ended_early = true;
    place->end_step = place->span_end = step;
    t->run.options.steps = stage_place_steps(place);
    t->run.stage_end = step;
    log_stage_ended(&t->run.log, step, s->name);
    progress_print(&t->run.progress, "step %lld: stage %s ends %lld steps early: all its conditions hold", step,
                   s->name, early);
}

bool stage_tasks_end_stage(Trainer *t) {
    const StagePlace *place = &t->state.place;
    if (!check_due(place, t->state.step) || t->state.step >= place->end_step) return false;
    const int count = stage_place_stage(place)->num_conditions;
    int64_t met = t->conditions_met == ~(uint64_t)0 >> (64 - count);
    if (t->run.team.size > 1) comm_host_broadcast(t->run.team.comm, &met, sizeof met, 0);
    if (met) end_stage(t);
    return met;
}
