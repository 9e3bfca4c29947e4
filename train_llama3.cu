// Trains a Llama 3 language model: see train_llama3 --help. C11 on either target.
//
// main: options → all ranks meet → run: set up → load the weights → THE LOOP (train) → save. The model side of a step is
// llmc/model/llama3.h; what is measured, logged and saved after it is llmc/train/observe.h. read_batches, train_step and
// finish_run are not static so that tests can take a run step by step.
#include <math.h>
#include <stdbool.h>
#include <unistd.h>

#include "checkpoint/find_model.h"
#include "device/trace.h"
#include "model/llama3.h"
#include "options/options.h"
#include "ranks/team.h"
#include "ranks/watchdog.h"
#include "run/process.h"
#include "train/agree.h"
#include "train/dry_run.h"
#include "train/eval_only.h"
#include "train/observe.h"
#include "train/setup.h"
#include "train/stages.h"

// Reads the step's micro-batches. All are read before the first is computed, since the loss is the mean over the targets of
// all of them, on all ranks. An error on one rank, or a signal to stop, becomes known to all ranks here.
int read_batches(Trainer *t, Error *err) {
    const Options *o = &t->run.options;
    int64_t targets = 0;
    int code = pace_begin_step(&t->pace, &t->run.team, o, t->pending, err);
    if (code) return code;
    trace_begin(LANE_STEP, "tokens of step", (int)t->state.step + 1, NULL);
    for (int i = 0; !code && i < o->grad_accum; i++) {
        Batch *batch = llama3_batch(t->model, i);
        code = train_data_fetch(&t->data, &t->run, &t->state, i, batch, err);
        if (!code) task_complete_batch(&t->task, t->model, i); // DPO: the reference model's log-probabilities
        if (!code) targets += batch->num_targets;
    }
    code = agree_on_step(&t->run, &t->saver, code, &targets, err);
    trace_end(LANE_STEP, NULL);
    t->targets = targets;
    return code;
}

static AdamWStep adamw_step(const Options *o, const TrainState *state, float learning_rate) {
    const double update = (double)(state->step - state->skipped_steps + 1); // the update's number, from 1
    return (AdamWStep){
        .learning_rate = learning_rate,
        .beta1 = o->beta1,
        .beta2 = o->beta2,
        .eps = (float)o->eps,
        .weight_decay = (float)o->weight_decay,
        .bias_correction1 = (float)(1 - pow(o->beta1, update)),
        .bias_correction2 = (float)(1 - pow(o->beta2, update)),
        .max_grad_norm = (float)o->grad_clip,
        .rounding_step = (uint32_t)(state->step + 1),
        .rounding_seed = (uint64_t)o->seed,
    };
}

// Queues the computation of loss and gradients of the batches that were read.
static void compute_gradients(Trainer *t) {
    Llama3 *model = t->model;
    trace_begin(LANE_STEP, "step", (int)t->state.step + 1, NULL);
    llama3_begin_step(model, t->targets);
    // forward, loss (--task: next token, or preference among answers), backward; in the last micro-batch gradients are
    // summed over the ranks meanwhile
    for (int i = 0; i < t->run.options.grad_accum; i++) llama3_gradients(model, i);
}

// Queues the update of the weights, which is not made if loss or gradient norm is not finite. Each rank updates its
// shard; the others' parameters arrive while the next forward pass runs.
static void update_weights(Trainer *t) {
    StepReport *report = &t->report;
    report->targets = t->targets;
    report->lr = (float)stages_lr(t);
    const AdamWStep adamw = adamw_step(&t->run.options, &t->state, report->lr);
    llama3_clip_and_adamw(t->model, &adamw, guard_max_loss(&t->guard));
    llama3_end_step(t->model);
    t->state.step++;
    t->state.tokens += t->run.options.tokens_per_step;
    t->pending = true;
    trace_end(LANE_STEP, NULL);
}

// A step with the batches that were read. The one before is observed (log line, guards), if that is still to be done,
// when the gradients are queued, so that the device never waits for the host, and before the update, which depends on
// what is observed.
int train_step(Trainer *t, Error *err) {
    compute_gradients(t);
    int code = observe_pending(t, 0, err);
    if (!code) update_weights(t);
    return code;
}

// Prints how the run ended, waits for a checkpoint that is being written, and writes the last one.
int finish_run(Trainer *t, Error *err) {
    watchdog_phase("saving");
    pace_print_end(&t->pace, &t->run, t->state.step);
    pace_write_timeline(&t->pace, &t->run, t->state.step);
    return saver_save_last(&t->saver, err);
}

static int train(Trainer *t, Error *err) {
    int code = observe_what_was_due(t, err); // evaluations that a signal to stop left out
    while (!code && !run_done(&t->run, t->state.step)) {
        code = stages_follow(t, err);           // --recipe: the run becomes the next stage's
        if (!code) code = read_batches(t, err); // while the device computes the step before
        if (code || t->run.stop_signal) break;  // a signal reached one of many ranks: none begins the step
        code = train_step(t, err);              // forward, loss, backward, learning rate, clipping, AdamW
        if (!code && observe_at_once(t)) code = observe_step(t, err); // validation loss, sample, checkpoint
    }
    code = observe_pending(t, code, err);
    return code ? code : finish_run(t, err); // the last checkpoint: a directory that transformers opens
}

static int run(const Options *options, const Team *team, Error *err) {
    Trainer *t = NULL;
    if (options->eval_only) return eval_only(options, team, err);
    if (options->dry_run) return dry_run(options, team, err);
    int code = train_setup(&t, options, team, err); // output folder, checkpoint, configuration, data, model
    if (!code && !train_was_done(t)) {
        code = train_load(t, err); // weights: drawn, or read from --init-from or the checkpoint to resume
        if (!code && !options->reference_only) code = train_begin(t, err); // the output folder becomes this run's
        if (!code && !options->reference_only) code = train(t, err);
    }
    train_close(t);
    return code;
}

// An option may name a folder in place of a file in it. A resumed run may no longer need the model it began from.
static int find_inputs(Options *options, Error *err) {
    const bool needed =
        options->init_from && (options_resume(options) == RESUME_NEVER || access(options->init_from, F_OK) == 0);
    int code = needed ? find_whole_model(&options->init_from, err) : 0;
    if (!code && options->config) code = find_file(&options->config, "config.json", err);
    if (!code && options->tokenizer) code = find_file(&options->tokenizer, "tokenizer.json", err);
    return code;
}

// An empty message means that another rank prints it.
static int report(int code, const Error *err) {
    if (code && err->message[0]) error_print("%s", err->message);
    return code;
}

// The ranks did not meet. Bad input is refused on all ranks; since the first to exit ends the others, they end together, once
// it is printed. A fault is one rank's own: waiting for the others would take forever.
static int end_unmet(Team *team, const Error *err) {
    report(err->code, err);
    if (err->code == ERROR_INPUT) team_close(team);
    return err->code;
}

int main(int argc, char **argv) {
    Options options;
    Team team;
    Error err = {0}, unmet = {0};
    process_prepare("train_llama3");
    int code = options_parse(&options, argc, argv, &err);
    if (options.help || options.version) return report(code, &err);
    if (!code) code = find_inputs(&options, &err);
    if (team_open(&team, options.transport, &unmet)) return end_unmet(&team, &unmet);
    if (!team_leads(&team)) process_silence(); // rank 0 prints for all
    code = team_agree(&team, code, &err);
    if (!code) code = agree_on_options(&team, &options, &err);
    if (!code) code = run(&options, &team, &err);
    if (team_leads(&team)) report(code, &err);
    team_close(&team);
    return code;
}
