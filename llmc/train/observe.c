// The training step, and what is observed after it: log, progress line, validation loss, sampled text.
#include "model/llama3_weights.h"
#include "train/trainer_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "device/trace.h"
#include "ranks/timeline.h"
#include "ranks/watchdog.h"
#include "train/evaluate.h"
#include "train/ref_logprobs.h"
#include "train/sample.h"

enum { MAX_BYTES_A_TOKEN = 16 };

bool trainer_done(const Trainer *t) { return t->state.step >= t->run.options.steps || trainer_stop_signal(t); }

// *num_targets: of this rank.
static int fetch(Trainer *t, int64_t *num_targets, Error *err) {
    *num_targets = 0;
    for (int i = 0; i < t->run.options.grad_accum; i++) {
        Batch *batch = llama3_batch(t->model, i);
        int code = loader_fetch(t->data.train, t->state.step + t->state.data_offset, i, batch, err);
        if (code) return code;
        if (t->task.ref_logprobs) reference_fill(t->model, i, t->task.ref_logprobs);
        *num_targets += batch->num_targets;
    }
    return 0;
}

static AdamWStep optimizer_step(const Trainer *t) {
    const Options *o = &t->run.options;
    const double update = (double)(t->state.step - t->state.skipped_steps + 1); // 1 for the first that is made
    return (AdamWStep){
        .learning_rate = (float)schedule_lr(&t->schedule, t->state.step),
        .beta1 = o->beta1,
        .beta2 = o->beta2,
        .eps = (float)o->eps,
        .weight_decay = (float)o->weight_decay,
        .bias_correction1 = (float)(1 - pow(o->beta1, update)),
        .bias_correction2 = (float)(1 - pow(o->beta2, update)),
        .max_grad_norm = (float)o->grad_clip,
    };
}

// Means over the step's pairs.
static void note_preference(Trainer *t, int64_t pairs) {
    double sums[PREFERENCE_SUMS];
    if (!trainer_compares(&t->run.options)) return;
    for (int i = 0; i < PREFERENCE_SUMS; i++) sums[i] = (double)llama3_step_sums(t->model)[i];
    t->report.preference = trainer_preference(&t->run.options, sums, (double)pairs);
    t->shown.accuracy = t->report.preference.accuracy;
}

static void note_step(Trainer *t, double lr, double loss, double grad_norm, double seconds) {
    double time = clock_seconds();
    t->state.step++;
    const int64_t here = t->state.step - t->saver.first_step; // steps of this process
    if (here == 1) t->pace.after_first_step = time;
    ProgressState *s = &t->shown;
    s->step = t->state.step;
    s->loss = loss;
    s->lr = lr;
    s->grad_norm = grad_norm;
    t->report.tokens_per_second = (double)t->run.options.tokens_per_step / seconds;
    // shown smoothed, over about the last ten steps, so that it can be read; the log has each step's own
    double weight = here <= 2 ? 1 : 0.1;
    s->tokens_per_second = (here == 1 ? 0 : (1 - weight) * s->tokens_per_second) + weight * t->report.tokens_per_second;
    if (t->pace.peak_flops > 0)
        s->share_of_peak = s->tokens_per_second * t->pace.flops_per_token / (t->pace.peak_flops * t->run.team.size);
    // the first step also warms caches up: what is left is judged by the others, evaluations included
    int64_t left = t->run.options.steps - t->state.step;
    s->seconds_left = here > 1 && left ? (time - t->pace.after_first_step) / (double)(here - 1) * (double)left : NAN;
}

static void compute(Trainer *t, int64_t num_targets, const AdamWStep *update, float *loss, float *grad_norm) {
    llama3_begin_step(t->model, num_targets);
    for (int i = 0; i < t->run.options.grad_accum; i++) {
        llama3_forward(t->model, i);
        llama3_loss(t->model);
        llama3_backward(t->model);
    }
    llama3_clip_and_adamw(t->model, update, trainer_max_loss(t));
    llama3_result(t->model, loss, grad_norm);
}

static void note_communication(Trainer *t) {
    LogRanks *c = &t->report.communication;
    c->ranks = t->run.team.size;
    if (t->run.team.size > 1) world_times(t->run.team.world, &c->comm_seconds, &c->exposed_seconds);
    t->pace.communicated.comm_seconds += c->comm_seconds;
    t->pace.communicated.exposed_seconds += c->exposed_seconds;
}

// ---- the timeline

enum { SPANS = 1 << 18 };

static int open_timeline(Trainer *t, Error *err) {
    if (!t->run.options.trace || t->pace.steps + 1 != t->timeline.first) return 0;
    return team_agree(&t->run.team, trace_open(SPANS, err), err);
}

void trainer_close_timeline(Trainer *t) {
    Error err = {0};
    if (!t->run.options.trace || t->pace.steps < t->timeline.first || t->timeline.written) return;
    t->timeline.written = true;
    if (timeline_write(&t->run.team, t->run.options.trace, &err) == 0)
        progress_print(&t->run.progress, "step %lld: timeline in %s", (long long)t->state.step, t->run.options.trace);
    else if (team_leads(&t->run.team))
        error_print("no timeline: %s; training goes on", err.message);
}

int trainer_step(Trainer *t, Error *err) {
    double began = clock_seconds();
    int64_t num_targets;
    float loss, grad_norm;
    t->made = false;
    watchdog_phase("training");
    int code = open_timeline(t, err);
    if (code) return code;
    trace_begin(LANE_STEP, "tokens of step", (int)t->state.step + 1, NULL);
    code = trainer_agree_on_step(t, fetch(t, &num_targets, err), &num_targets, err);
    trace_end(LANE_STEP, NULL);
    if (code || t->run.stop_signal) return code;
    trace_begin(LANE_STEP, "step", (int)t->state.step + 1, NULL);
    AdamWStep update = optimizer_step(t);
    compute(t, num_targets, &update, &loss, &grad_norm);
    trace_end(LANE_STEP, NULL);
    note_communication(t);
    note_preference(t, num_targets);
    const double seconds = clock_seconds() - began;
    t->pace.seconds += seconds;
    note_step(t, update.learning_rate, loss, grad_norm, seconds);
    watchdog_step(t->state.step);
    t->made = true;
    t->pace.steps++;
    if (t->pace.steps == t->timeline.last) trainer_close_timeline(t);
    return 0;
}

// ---- after a step

static bool due(const Trainer *t, int64_t every) {
    return every > 0 && (t->state.step % every == 0 || t->state.step == t->run.options.steps);
}

int trainer_observations(const Trainer *t) {
    const Options *o = &t->run.options;
    return (t->data.val && o->eval_every ? LOG_EVALUATION : 0) | (o->eval_tasks ? LOG_TASK : 0) |
           (o->sample_every ? LOG_SAMPLE : 0);
}

static int observations_due(const Trainer *t) {
    const Options *o = &t->run.options;
    const int now = (due(t, o->eval_every) ? LOG_EVALUATION : 0) | (trainer_tasks_due(t) ? LOG_TASK : 0) |
                    (due(t, o->sample_every) ? LOG_SAMPLE : 0);
    return now & trainer_observations(t);
}

static int show_evaluation(Trainer *t, Error *err) {
    const Options *o = &t->run.options;
    const bool compares = trainer_compares(o);
    Evaluated result;
    int code = evaluate(t->model, t->data.val, t->task.val_ref_logprobs, &t->run.team, o->eval_batches,
                        (int)o->grad_accum, &result, err);
    if (code) return code;
    const LogPreference preference = trainer_preference(o, result.sums, (double)result.targets);
    t->shown.val_loss = evaluated_loss(&result);
    log_evaluation(&t->run.log, t->state.step, t->shown.val_loss, compares ? &preference : NULL);
    char more[96] = "";
    if (!isnan(t->data.unigram_loss)) snprintf(more, sizeof more, " (unigram model: %.4f)", t->data.unigram_loss);
    if (compares)
        snprintf(more, sizeof more, ", %.1f %% of %lld pairs right, margin %.4f", 100 * preference.accuracy,
                 (long long)result.targets, preference.reward_chosen - preference.reward_rejected);
    progress_print(&t->run.progress, "step %lld: validation loss %.4f%s", (long long)t->state.step, t->shown.val_loss,
                   more);
    return 0;
}

// After the run's last step: what the mean of the weights makes of the same data.
static int show_averaged(Trainer *t, Error *err) {
    const Options *o = &t->run.options;
    Evaluated result;
    if (!t->state.average_samples || t->state.step != o->steps) return 0;
    llama3_use_average(t->model, true);
    int code = evaluate(t->model, t->data.val, t->task.val_ref_logprobs, &t->run.team, o->eval_batches,
                        (int)o->grad_accum, &result, err);
    llama3_use_average(t->model, false);
    if (code) return code;
    const double loss = evaluated_loss(&result);
    log_averaged(&t->run.log, t->state.step, loss, t->state.average_samples);
    progress_print(&t->run.progress, "step %lld: validation loss %.4f of the weights averaged over %lld steps",
                   (long long)t->state.step, loss, (long long)t->state.average_samples);
    return 0;
}

static void show_sample(Trainer *t) {
    const Options *o = &t->run.options;
    if (!t->sampling.decoder) return; // rank 0 writes it
    size_t capacity = (size_t)o->sample_tokens * MAX_BYTES_A_TOKEN + 1;
    char *text = malloc(capacity);
    if (!text) return;
    int count = sample_ids(t->sampling.decoder, t->sampling.sampler, t->sampling.ids, (int)o->sample_tokens,
                           &t->run.config, o->temperature, (uint64_t)(o->seed + t->state.step));
    sample_text(t->data.tokenizer, t->sampling.ids, count, text, capacity);
    log_sample(&t->run.log, t->state.step, text);
    progress_print(&t->run.progress, "step %lld: sample\n%s\n", (long long)t->state.step, text);
    free(text);
}

// The weights of every so many steps; a step that did not change them is none.
static void add_to_average(Trainer *t) {
    const Options *o = &t->run.options;
    if (!o->average_from || t->state.step < o->average_from ||
        (t->state.step - o->average_from) % o->average_every != 0)
        return;
    if (llama3_update_applied(t->model)) llama3_average(t->model, ++t->state.average_samples);
}

// Is this one owed, and no signal to stop in its way? Then it is not owed any more.
static bool take_on(Trainer *t, LogKind kind) {
    if (!(t->state.due & (int)kind) || trainer_stop_signal(t)) return false;
    t->state.due &= ~(int)kind;
    return true;
}

// What takes long. What a signal to stop leaves undone stays owed: the run that goes on makes it up.
static int observe_at_length(Trainer *t, Error *err) {
    int code = 0;
    if (!t->state.due) return 0;
    trainer_agree_on_stopping(t);
    watchdog_phase("evaluating");
    if (take_on(t, LOG_EVALUATION)) {
        code = show_evaluation(t, err);
        if (!code) code = show_averaged(t, err);
    }
    if (!code && take_on(t, LOG_TASK)) code = trainer_show_tasks(t, err);
    if (!code && take_on(t, LOG_SAMPLE)) show_sample(t);
    return code;
}

int trainer_make_up(Trainer *t, Error *err) {
    const int owed = t->state.due;
    int code = observe_at_length(t, err);
    if (owed && !t->state.due)
        t->saver.saved_step = 0; // the checkpoint that is there says that they are owed: another is due
    return code;
}

int trainer_observe(Trainer *t, Error *err) {
    const ProgressState *s = &t->shown;
    bool rolled_back;
    if (!t->made) return 0;
    log_step(&t->run.log, t->state.step, s->loss, s->lr, s->grad_norm, trainer_tokens(t), t->report.tokens_per_second,
             trainer_compares(&t->run.options) ? &t->report.preference : NULL,
             t->run.team.size > 1 ? &t->report.communication : NULL);
    int code = trainer_guard(t, &rolled_back, err);
    if (code || rolled_back) return code;
    add_to_average(t);
    progress_show(&t->run.progress, s);
    if (due(t, t->run.options.checksum_every)) code = trainer_checksum(t, err);
    if (code) return code;
    t->state.due = observations_due(t);
    code = observe_at_length(t, err);
    watchdog_phase("saving");
    if (!code) trainer_checkpoint(t);
    return code;
}
