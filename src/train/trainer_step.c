// The training step, and what is observed after it: log, progress line, validation loss, sampled text.
#include "train/trainer_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "train/evaluate.h"
#include "train/process.h"
#include "train/sample.h"

enum { MAX_BYTES_A_TOKEN = 16 };

bool trainer_done(const Trainer *t) { return t->step >= t->options.steps || process_stop_requested(); }

static int fetch(Trainer *t, int64_t *num_targets, Error *err) {
    *num_targets = 0;
    for (int i = 0; i < t->options.grad_accum; i++) {
        Batch *batch = llama3_batch(t->model, i);
        int code = loader_fetch(t->train, t->step + t->data_offset, i, batch, err);
        if (code) return code;
        *num_targets += batch->num_targets;
    }
    return 0;
}

static AdamWStep optimizer_step(const Trainer *t) {
    const Options *o = &t->options;
    const double update = (double)(t->step - t->skipped_steps + 1); // 1 for the first that is made
    return (AdamWStep){
        .learning_rate = (float)schedule_lr(&t->schedule, t->step),
        .beta1 = o->beta1,
        .beta2 = o->beta2,
        .eps = (float)o->eps,
        .weight_decay = (float)o->weight_decay,
        .bias_correction1 = (float)(1 - pow(o->beta1, update)),
        .bias_correction2 = (float)(1 - pow(o->beta2, update)),
        .max_grad_norm = (float)o->grad_clip,
    };
}

static void note_step(Trainer *t, double lr, double loss, double grad_norm, double seconds) {
    double time = trainer_now();
    t->step++;
    const int64_t here = t->step - t->first_step; // steps of this process
    if (here == 1) t->after_first_step = time;
    ProgressState *s = &t->state;
    s->step = t->step;
    s->loss = loss;
    s->lr = lr;
    s->grad_norm = grad_norm;
    t->tokens_per_second = (double)t->options.tokens_per_step / seconds;
    // shown smoothed, over about the last ten steps, so that it can be read; the log has each step's own
    double weight = here <= 2 ? 1 : 0.1;
    s->tokens_per_second = (here == 1 ? 0 : (1 - weight) * s->tokens_per_second) + weight * t->tokens_per_second;
    if (t->peak_flops > 0) s->share_of_peak = s->tokens_per_second * t->flops_per_token / t->peak_flops;
    // the first step also warms caches up: what is left is judged by the others, evaluations included
    int64_t left = t->options.steps - t->step;
    s->seconds_left = here > 1 && left ? (time - t->after_first_step) / (double)(here - 1) * (double)left : NAN;
}

int trainer_step(Trainer *t, Error *err) {
    double began = trainer_now();
    int64_t num_targets;
    float loss, grad_norm;
    int code = fetch(t, &num_targets, err);
    if (code) return code;
    AdamWStep update = optimizer_step(t);
    llama3_begin_step(t->model, num_targets);
    for (int i = 0; i < t->options.grad_accum; i++) llama3_forward_backward(t->model, i);
    llama3_update(t->model, &update, trainer_max_loss(t));
    llama3_result(t->model, &loss, &grad_norm);
    note_step(t, update.learning_rate, loss, grad_norm, trainer_now() - began);
    return 0;
}

// ---- after a step

static bool due(const Trainer *t, int64_t every) {
    return every > 0 && (t->step % every == 0 || t->step == t->options.steps) && !process_stop_requested();
}

static int show_evaluation(Trainer *t, Error *err) {
    const Options *o = &t->options;
    int code =
        evaluate(t->model, t->val, (int)o->batch_size, o->eval_batches, (int)o->grad_accum, &t->state.val_loss, err);
    if (code) return code;
    log_evaluation(&t->log, t->step, t->state.val_loss);
    char unigram[64] = "";
    if (!isnan(t->unigram_loss)) snprintf(unigram, sizeof unigram, " (unigram model: %.4f)", t->unigram_loss);
    progress_print(&t->progress, "step %lld: validation loss %.4f%s", (long long)t->step, t->state.val_loss, unigram);
    return 0;
}

static void show_sample(Trainer *t) {
    const Options *o = &t->options;
    size_t capacity = (size_t)o->sample_tokens * MAX_BYTES_A_TOKEN + 1;
    char *text = malloc(capacity);
    if (!text) return;
    int count = sample_ids(t->decoder, t->sampler, t->sample_ids, (int)o->sample_tokens, &t->config, o->temperature,
                           (uint64_t)(o->seed + t->step));
    sample_text(t->tokenizer, t->sample_ids, count, text, capacity);
    log_sample(&t->log, t->step, text);
    progress_print(&t->progress, "step %lld: sample\n%s\n", (long long)t->step, text);
    free(text);
}

int trainer_observe(Trainer *t, Error *err) {
    const ProgressState *s = &t->state;
    log_step(&t->log, t->step, s->loss, s->lr, s->grad_norm, trainer_tokens(t), t->tokens_per_second);
    bool rolled_back;
    int code = trainer_guard(t, &rolled_back, err);
    if (code || rolled_back) return code;
    progress_show(&t->progress, s);
    if (due(t, t->options.checksum_every)) trainer_checksum(t);
    code = t->val && due(t, t->options.eval_every) ? show_evaluation(t, err) : 0;
    if (!code) code = trainer_show_tasks(t, err);
    if (!code && due(t, t->options.sample_every)) show_sample(t);
    if (!code) trainer_checkpoint(t);
    return code;
}
