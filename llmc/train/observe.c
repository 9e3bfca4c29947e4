#include "train/observe.h"

#include <math.h>
#include <stdio.h>

#include "device/device.h"
#include "model/llama3.h"
#include "model/llama3_weights.h"
#include "ranks/watchdog.h"
#include "run/process.h"
#include "train/evaluate.h"
#include "train/stage_tasks.h"
#include "train/stages.h"

static bool due(int64_t step, int64_t every, int64_t last) { return every > 0 && (step % every == 0 || step == last); }

// The LogKinds that are due after the last step: at the end of a stage too.
static int observations_due(const Trainer *t) {
    const Options *o = &t->run.options;
    const int64_t step = t->state.step, end = t->run.stage_end;
    const bool tasks = step >= end || (o->eval_tasks_every > 0 && step % o->eval_tasks_every == 0);
    const int now = (due(step, o->eval_every, end) ? LOG_EVALUATION : 0) | (tasks ? LOG_TASK : 0) |
                    (due(step, o->sample_every, end) ? LOG_SAMPLE : 0);
    return stage_tasks_due(t, now) & train_state_observations(o);
}

// ---- validation loss

// *whole = the sums over all sets; losses [num_val] (=) of each.
static int validate(Trainer *t, Evaluated *whole, double *losses, Error *err) {
    const Options *o = &t->run.options;
    int code = 0;
    *whole = (Evaluated){0};
    for (int i = 0; !code && i < t->data.num_val; i++) {
        Evaluated one;
        code = evaluate(t->model, t->data.val[i].loader, t->task.ref_logprobs.val, &t->run.team, o->eval_batches,
                        (int)o->grad_accum, &one, err);
        losses[i] = evaluated_loss(&one);
        evaluated_add(whole, &one);
    }
    return code;
}

static void log_validation(Trainer *t, double loss, const double *losses, const LogPreference *preference) {
    LogMeasure by_source[RECIPE_MAX_SOURCES];
    const TrainData *data = &t->data;
    const int sources = data->mixture ? data->num_val : 0;
    for (int i = 0; i < sources; i++) by_source[i] = (LogMeasure){data->val[i].source, losses[i]};
    log_evaluation(&t->run.log, t->state.step, loss, by_source, sources, preference);
}

static int show_validation(Trainer *t, Error *err) {
    const bool compares = task_compares(t->task.kind);
    Evaluated result;
    double losses[RECIPE_MAX_SOURCES];
    int code = validate(t, &result, losses, err);
    if (code) return code;
    const LogPreference preference = task_preference(t->task.kind, result.sums, (double)result.targets);
    const double loss = t->pace.shown.val_loss = evaluated_loss(&result);
    log_validation(t, loss, losses, compares ? &preference : NULL);
    char more[96] = "";
    if (!isnan(t->data.unigram_loss)) snprintf(more, sizeof more, " (unigram model: %.4f)", t->data.unigram_loss);
    if (compares)
        snprintf(more, sizeof more, ", %.1f %% of %lld pairs right, margin %.4f", 100 * preference.accuracy,
                 (long long)result.targets, preference.reward_chosen - preference.reward_rejected);
    progress_print(&t->run.progress, "step %lld: validation loss %.4f%s", (long long)t->state.step, loss, more);
    return 0;
}

// After the last step of run or stage: the validation loss of the averaged weights, on the same data.
static int show_averaged(Trainer *t, Error *err) {
    const long long samples = t->state.average_samples;
    Evaluated result;
    double losses[RECIPE_MAX_SOURCES];
    if (!samples || t->state.step != t->run.stage_end) return 0;
    llama3_use_average(t->model, true);
    int code = validate(t, &result, losses, err);
    llama3_use_average(t->model, false);
    if (code) return code;
    const double loss = evaluated_loss(&result);
    log_averaged(&t->run.log, t->state.step, loss, samples);
    progress_print(&t->run.progress, "step %lld: validation loss %.4f of the weights averaged over %lld steps",
                   (long long)t->state.step, loss, samples);
    return 0;
}

// ---- scores of --eval-tasks

// Scores one task. A signal to this rank cuts it short; then there is no result.
static int show_score(Trainer *t, int index, Error *err) {
    EvalResult result;
    char text[256];
    Run *run = &t->run;
    const char *name = evaltasks_name(t->eval_tasks, index);
    int code = evaltasks_run(t->eval_tasks, index, t->model, (int)run->options.batch_size, NULL, process_stop_requested,
                             &result, err);
    if (code || process_stop_requested()) return code;
    eval_log(&run->log, t->state.step, name, &result);
    eval_describe(text, sizeof text, &result);
    progress_print(&run->progress, "step %lld: %s: %s", (long long)t->state.step, name, text);
    stage_tasks_note(t, name, &result);
    return 0;
}

// Rank 0 computes, the others wait. Scores that a signal cut short stay due, as rank 0's state says.
static int show_scores(Trainer *t, Error *err) {
    EvalTasks *tasks = t->eval_tasks;
    int code = 0;
    t->conditions_met = 0;
    for (int i = 0; !code && tasks && i < evaltasks_count(tasks) && !process_stop_requested(); i++)
        if (stage_tasks_include(t, evaltasks_name(tasks, i))) code = show_score(t, i, err);
    if (tasks && process_stop_requested()) t->state.due |= LOG_TASK;
    return team_follow(&t->run.team, code, err);
}

// ---- a sampled text

static void show_sample(Sampling *sampling, Run *run, const Tokenizer *tokenizer, int64_t step) {
    const Options *o = &run->options;
    if (!sampling->decoder) return; // only rank 0 samples
    const char *text = sample_write(sampling, tokenizer, &run->config, o->temperature, (uint64_t)(o->seed + step));
    log_sample(&run->log, step, text);
    progress_print(&run->progress, "step %lld: sample\n%s\n", (long long)step, text);
}

// ---- all that takes long

// Whether an observation is due and no signal to stop has come; then it is no longer due.
static bool take_on(Trainer *t, LogKind kind) {
    if (!(t->state.due & (int)kind) || run_stop_signal(&t->run)) return false;
    t->state.due &= ~(int)kind;
    return true;
}

// *ended: by their scores the stage ends here.
static int observe_what_is_due(Trainer *t, bool *ended, Error *err) {
    int code = 0;
    if (take_on(t, LOG_EVALUATION)) {
        code = show_validation(t, err);
        if (!code) code = show_averaged(t, err);
    }
    if (!code && take_on(t, LOG_TASK)) {
        code = show_scores(t, err);
        *ended = !code && stage_tasks_end_stage(t);
    }
    if (!code && take_on(t, LOG_SAMPLE)) show_sample(&t->sampling, &t->run, t->data.tokenizer, t->state.step);
    return code;
}

// Observations that a signal to stop prevents stay due: they are made when the run is resumed.
static int observe_at_length(Trainer *t, Error *err) {
    bool ended = false;
    const int was_due = t->state.due;
    if (!was_due) return 0;
    run_agree_on_stopping(&t->run);
    watchdog_phase("evaluating");
    int code = observe_what_is_due(t, &ended, err);
    if (code || !ended) return code;
    t->state.due |= observations_due(t) & ~was_due; // what a stage's end has besides
    return observe_what_is_due(t, &ended, err);
}

int observe_what_was_due(Trainer *t, Error *err) {
    const int was_due = t->state.due;
    int code = observe_at_length(t, err);
    // the existing checkpoint says that they are due, so it has to be replaced by another one of this step
    if (was_due && !t->state.due) t->saver.saved_step = 0;
    return code;
}

// ---- after each step

static void note_preference(StepReport *report, ProgressState *shown, const Llama3 *model, const TaskKind *kind) {
    double sums[PREFERENCE_SUMS];
    if (!task_compares(kind)) return;
    for (int i = 0; i < PREFERENCE_SUMS; i++) sums[i] = (double)llama3_step_sums(model)[i];
    report->preference = task_preference(kind, sums, (double)report->targets);
    shown->accuracy = report->preference.accuracy;
}

static int list_sources(LogSource *sources, const StagePlace *place) {
    const Recipe *recipe = place->recipe;
    for (int i = 0; recipe && i < recipe->num_sources; i++)
        sources[i] = (LogSource){recipe->sources[i].name, place->now[i].tokens, place->epochs[i]};
    return recipe ? recipe->num_sources : 0;
}

static void write_log(Run *run, const StepReport *report, const TrainState *state, bool compares) {
    LogSource sources[RECIPE_MAX_SOURCES];
    const Stage *stage = stage_place_stage(&state->place);
    const LogStep line = {.loss = (double)report->loss,
                          .lr = (double)report->lr,
                          .grad_norm = (double)report->grad_norm,
                          .tokens = state->tokens,
                          .tokens_per_second = report->tokens_per_second,
                          .preference = compares ? &report->preference : NULL,
                          .stage = stage ? stage->name : NULL,
                          .sources = sources,
                          .num_sources = list_sources(sources, &state->place),
                          .ranks = run->team.size > 1 ? &report->communication : NULL};
    log_step(&run->log, state->step, &line);
}

// Every --average-every steps the weights are one more sample; a step that did not change them is left out.
static void add_to_average(TrainState *state, const Options *o, Llama3 *model) {
    if (!o->average_from || state->step < o->average_from) return;
    if ((state->step - o->average_from) % o->average_every != 0) return;
    if (llama3_update_applied(model)) llama3_average(model, ++state->average_samples);
}

bool observe_at_once(const Trainer *t) {
    const Options *o = &t->run.options;
    if (!device_runs_beside_host() || o->on_spike == ON_SPIKE_ROLLBACK) return true;
    return t->state.step >= t->run.stage_end || observations_due(t) || saver_due(&t->saver) ||
           (o->trace && pace_traces(&t->pace));
}

int observe_pending(Trainer *t, int code, Error *err) {
    Error later = {0};
    if (!t->pending) return code;
    const int observed = observe_step(t, code ? &later : err);
    watchdog_phase("training"); // the next step has begun
    return code ? code : observed;
}

int observe_step(Trainer *t, Error *err) {
    const Options *o = &t->run.options;
    bool rolled_back;
    llama3_take_result(t->model, &t->report.loss, &t->report.grad_norm);
    t->pending = false;
    note_preference(&t->report, &t->pace.shown, t->model, t->task.kind);
    pace_end_step(&t->pace, &t->report, &t->run, t->state.step);
    watchdog_step(t->state.step);
    stages_note_position(t);
    write_log(&t->run, &t->report, &t->state, task_compares(t->task.kind));
    int code = guard_step(&t->guard, &t->report, &rolled_back, err);
    if (code || rolled_back) return code;
    add_to_average(&t->state, o, t->model);
    progress_show(&t->run.progress, &t->pace.shown);
    if (due(t->state.step, o->checksum_every, t->run.stage_end)) code = guard_checksum(&t->guard, err);
    if (code) return code;
    t->state.due = observations_due(t);
    code = observe_at_length(t, err);
    watchdog_phase("saving");
    if (!code) saver_step(&t->saver);
    return code;
}
