#include "train/trainer.h"

#include <cjson/cJSON.h>
#include <glob.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "data/loader.h"
#include "data/shard.h"
#include "data/tokenizer.h"
#include "model/llama3.h"
#include "target/device.h"
#include "train/evaluate.h"
#include "train/flops.h"
#include "train/log.h"
#include "train/process.h"
#include "train/progress.h"
#include "train/run_dir.h"
#include "train/sample.h"
#include "train/schedule.h"

struct Trainer {
    Options options;
    LlamaConfig config;
    Loader *train, *val; // val: NULL where there is none
    Tokenizer *tokenizer;
    char train_shard[PATH_MAX], tokenizer_path[PATH_MAX]; // the first shard; the file in use
    double unigram_loss;                                  // of the validation data, NAN: not known
    Llama3 *model;
    Schedule schedule;
    Log log;
    Progress progress;
    int64_t step;                       // updates done
    ProgressState state;                // what the last step gave
    double tokens_per_second;           // of the last step
    double flops_per_token, peak_flops; // 0: not known
    double began, after_first_step;     // seconds, monotonic clock
    float *logits;                      // [vocab_size], for sampling
    int32_t *sample_ids;                // [sample_tokens]
};

enum { MAX_META_BYTES = 1 << 20, MAX_BYTES_A_TOKEN = 16 };

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

// ---- opening

static int set_threads(const Options *options, Error *err) {
#ifdef _OPENMP
    const bool threaded = true;
    if (options->threads) omp_set_num_threads((int)options->threads);
#else
    const bool threaded = false;
#endif
    if (threaded || options->threads == 0) return 0;
    return fail_input(err, "--threads %lld: expected 0, this build computes on the GPU",
                      (long long)options->threads);
}

static int read_config(Trainer *t, Error *err) {
    char path[PATH_MAX];
    if (!t->options.init_from) return llama_config_read(&t->config, t->options.config, err);
    int code = run_dir_path(path, t->options.init_from, "config.json", err);
    return code ? code : llama_config_read(&t->config, path, err);
}

// path = the first shard that the pattern finds.
static int find_shard(char path[PATH_MAX], const char *option, const char *pattern, Error *err) {
    glob_t matches;
    int found = glob(pattern, 0, NULL, &matches) == 0;
    if (found) snprintf(path, PATH_MAX, "%s", matches.gl_pathv[0]);
    globfree(&matches);
    return found
               ? 0
               : fail_input(err, "%s %s: expected token shards, found no file of that name", option, pattern);
}

static int open_tokenizer(Trainer *t, Error *err) {
    const char *given = t->options.tokenizer;
    int code = run_dir_path_beside(t->tokenizer_path, t->train_shard, "tokenizer.json", err);
    if (code) return code;
    if (given && snprintf(t->tokenizer_path, PATH_MAX, "%s", given) >= PATH_MAX)
        return fail_input(err, "--tokenizer %.200s...: path too long", given);
    return tokenizer_open(&t->tokenizer, t->tokenizer_path, err);
}

static int open_loader(Trainer *t, Loader **loader, const char *pattern, const LoaderSpec *spec, Error *err) {
    return loader_open(loader, pattern, spec, t->config.vocab_size, tokenizer_sha256(t->tokenizer), err);
}

// A unigram model's loss on the validation data, which prepare_data.py leaves beside them in meta.json.
static double read_unigram_loss(const char *shard) {
    char path[PATH_MAX];
    cJSON *meta = NULL;
    if (run_dir_path_beside(path, shard, "meta.json", NULL) ||
        json_read_object(&meta, path, MAX_META_BYTES, NULL))
        return NAN;
    const cJSON *loss = json_get(meta, "unigram_val_loss");
    double value = cJSON_IsNumber(loss) ? loss->valuedouble : NAN;
    cJSON_Delete(meta);
    return value;
}

static int open_data(Trainer *t, Error *err) {
    const Options *o = &t->options;
    LoaderSpec spec = {.B = (int)o->batch_size,
                       .T = (int)o->seq_len,
                       .grad_accum = (int)o->grad_accum,
                       .world = 1,
                       .seed = (uint64_t)o->seed,
                       .document_mask = o->document_mask,
                       .shuffle = true};
    int code = find_shard(t->train_shard, "--train-data", o->train_data, err);
    if (!code) code = open_tokenizer(t, err);
    if (!code) code = open_loader(t, &t->train, o->train_data, &spec, err);
    if (code || !o->val_data) return code;
    spec.grad_accum = 1;
    spec.seed = 0; // the same windows whatever the run's seed, so that runs can be compared
    char val_shard[PATH_MAX];
    code = find_shard(val_shard, "--val-data", o->val_data, err);
    if (!code) code = open_loader(t, &t->val, o->val_data, &spec, err);
    if (!code) t->unigram_loss = read_unigram_loss(val_shard);
    return code;
}

// The tokens that begin and end a document are those of the data the model is trained on.
static int take_document_ids(Trainer *t, Error *err) {
    uint32_t bos = loader_bos_id(t->train), eos = loader_eos_id(t->train);
    if (bos != SHARD_NO_ID) t->config.bos_token_id = (int)bos;
    if (eos != SHARD_NO_ID)
        t->config.eos_token_id = (int)eos;
    else if (bos != SHARD_NO_ID)
        t->config.eos_token_id = (int)bos; // one token does both
    if (bos == SHARD_NO_ID && t->options.sample_every)
        return fail_input(
            err, "--sample-every %lld: expected shards with a begin-of-document token, found none in %s",
            (long long)t->options.sample_every, t->train_shard);
    return 0;
}

static int create_model(Trainer *t, Error *err) {
    const Options *o = &t->options;
    RunShape shape = {.B = (int)o->batch_size,
                      .T = (int)o->seq_len,
                      .micro_batches = (int)o->grad_accum,
                      .training = true,
                      .recompute = o->recompute == RECOMPUTE_BLOCK};
    int code = llama3_create(&t->model, &t->config, &shape, err);
    if (code) return code;
    t->logits = malloc((size_t)t->config.vocab_size * sizeof *t->logits);
    t->sample_ids = malloc((size_t)o->sample_tokens * sizeof *t->sample_ids);
    return t->logits && t->sample_ids ? 0 : fail_fault(err, "out of memory");
}

static void find_peak(Trainer *t) {
    int device;
    struct cudaDeviceProp properties;
    cuda_check(cudaGetDevice(&device));
    cuda_check(cudaGetDeviceProperties(&properties, device));
    t->peak_flops =
        t->options.peak_tflops > 0 ? 1e12 * t->options.peak_tflops : flops_peak_of_device(properties.name);
    t->flops_per_token = flops_per_token(&t->config, llama3_parameters(t->model), (int)t->options.seq_len);
    printf("device    %s\n", properties.name);
}

static void print_summary(const Trainer *t) {
    const Options *o = &t->options;
    char parameters[16], tokens[16], step_tokens[16];
    progress_count(parameters, sizeof parameters, (double)llama3_parameters(t->model)->num_parameters);
    progress_count(tokens, sizeof tokens, (double)loader_num_tokens(t->train));
    progress_count(step_tokens, sizeof step_tokens, (double)o->tokens_per_step);
    double epochs =
        (double)o->steps * (double)(o->batch_size * o->grad_accum) / (double)loader_num_windows(t->train);
    printf("model     %s parameters: %d layers, hidden %d, %d heads over %d, vocabulary %d\n", parameters,
           t->config.num_hidden_layers, t->config.hidden_size, t->config.num_attention_heads,
           t->config.num_key_value_heads, t->config.vocab_size);
    printf("data      %s tokens in %d shard%s, %llu windows of %lld\n", tokens, loader_num_shards(t->train),
           loader_num_shards(t->train) == 1 ? "" : "s", (unsigned long long)loader_num_windows(t->train),
           (long long)o->seq_len);
    printf("run       %lld steps of %s tokens (%lld x %lld rows of %lld), %.2f epochs\n", (long long)o->steps,
           step_tokens, (long long)o->grad_accum, (long long)o->batch_size, (long long)o->seq_len, epochs);
    llama3_print_memory(t->model, stdout);
    fflush(stdout);
}

static int open_parts(Trainer *t, Error *err) {
    int code = set_threads(&t->options, err);
    if (!code) code = read_config(t, err);
    if (!code) code = open_data(t, err);
    if (!code) code = take_document_ids(t, err);
    if (!code) code = run_dir_open(t->options.output, t->options.overwrite, err);
    if (!code) code = create_model(t, err);
    return code;
}

int trainer_open(Trainer **out, const Options *options, Error *err) {
    Trainer *t = calloc(1, sizeof *t);
    if (!t) return fail_fault(err, "out of memory");
    t->options = *options;
    t->log.fd = -1;
    t->unigram_loss = NAN;
    t->schedule = (Schedule){options->lr, options->warmup_steps, options->steps, options->final_lr_fraction};
    t->state = (ProgressState){0, options->steps, NAN, NAN, NAN, NAN, NAN, NAN, NAN};
    int code = open_parts(t, err);
    if (code) {
        trainer_close(t);
        return code;
    }
    find_peak(t);
    print_summary(t);
    *out = t;
    return 0;
}

int trainer_load(Trainer *t, Error *err) {
    if (t->options.init_from) return checkpoint_read(t->options.init_from, t->model, err);
    llama3_init_weights(t->model, (uint64_t)t->options.seed);
    return 0;
}

int trainer_begin(Trainer *t, Error *err) {
    char path[PATH_MAX];
    const char *folder = t->options.output;
    int code = run_dir_path(path, folder, "trainer_options.json", err);
    if (!code) code = options_save(&t->options, path, err);
    if (!code) code = run_dir_copy(folder, t->tokenizer_path, "tokenizer.json", err);
    if (!code) code = run_dir_copy_beside(folder, t->tokenizer_path, "tokenizer_config.json", err);
    if (!code) code = run_dir_copy_beside(folder, t->train_shard, "meta.json", err);
    if (!code) code = run_dir_path(path, folder, "log.jsonl", err);
    if (!code) code = log_open(&t->log, path, err);
    progress_begin(&t->progress, stdout, t->options.log_every);
    t->began = now();
    return code;
}

// ---- the loop

bool trainer_done(const Trainer *t) {
    return t->step == t->options.steps || process_stop_requested();
}

static int fetch(Trainer *t, int64_t *num_targets, Error *err) {
    *num_targets = 0;
    for (int i = 0; i < t->options.grad_accum; i++) {
        Batch *batch = llama3_batch(t->model, i);
        int code = loader_fetch(t->train, t->step, i, batch, err);
        if (code) return code;
        *num_targets += batch->num_targets;
    }
    return 0;
}

// step: updates done before this one.
static AdamWStep optimizer_step(const Trainer *t, int64_t step) {
    const Options *o = &t->options;
    return (AdamWStep){
        .learning_rate = (float)schedule_lr(&t->schedule, step),
        .beta1 = o->beta1,
        .beta2 = o->beta2,
        .eps = (float)o->eps,
        .weight_decay = (float)o->weight_decay,
        .bias_correction1 = (float)(1 - pow(o->beta1, (double)(step + 1))),
        .bias_correction2 = (float)(1 - pow(o->beta2, (double)(step + 1))),
        .max_grad_norm = (float)o->grad_clip,
    };
}

static void note_step(Trainer *t, double lr, double loss, double grad_norm, double seconds) {
    double time = now();
    t->step++;
    if (t->step == 1) t->after_first_step = time;
    ProgressState *s = &t->state;
    s->step = t->step;
    s->loss = loss;
    s->lr = lr;
    s->grad_norm = grad_norm;
    t->tokens_per_second = (double)t->options.tokens_per_step / seconds;
    // shown smoothed, over about the last ten steps, so that it can be read; the log has each step's own
    double weight = t->step <= 2 ? 1 : 0.1;
    s->tokens_per_second =
        (t->step == 1 ? 0 : (1 - weight) * s->tokens_per_second) + weight * t->tokens_per_second;
    if (t->peak_flops > 0) s->share_of_peak = s->tokens_per_second * t->flops_per_token / t->peak_flops;
    // the first step also warms caches up: what is left is judged by the others, evaluations included
    int64_t left = t->options.steps - t->step;
    s->seconds_left =
        t->step > 1 && left ? (time - t->after_first_step) / (double)(t->step - 1) * (double)left : NAN;
}

static int stop_not_finite(Trainer *t, Error *err) {
    const ProgressState *s = &t->state;
    const char *what = isfinite(s->loss) ? "gradient norm" : "loss";
    double value = isfinite(s->loss) ? s->grad_norm : s->loss;
    char reason[64];
    snprintf(reason, sizeof reason, "%s is %f", what, value);
    log_stop(&t->log, t->step, reason);
    // the loader is a function of seed and step alone, so these two replay the batch
    return fail_fault(err,
                      "step %lld: the %s is %f (--seed %lld, learning rate %g); no checkpoint is written, "
                      "the log is kept in %s",
                      (long long)t->step, what, value, (long long)t->options.seed, s->lr, t->options.output);
}

int trainer_step(Trainer *t, Error *err) {
    double began = now();
    int64_t num_targets;
    float loss, grad_norm;
    int code = fetch(t, &num_targets, err);
    if (code) return code;
    AdamWStep update = optimizer_step(t, t->step);
    llama3_begin_step(t->model, num_targets);
    for (int i = 0; i < t->options.grad_accum; i++) llama3_forward_backward(t->model, i);
    llama3_update(t->model, &update);
    llama3_result(t->model, &loss, &grad_norm);
    note_step(t, update.learning_rate, loss, grad_norm, now() - began);
    return 0;
}

// ---- after a step

static bool due(const Trainer *t, int64_t every) {
    return every > 0 && (t->step % every == 0 || t->step == t->options.steps) && !process_stop_requested();
}

static int show_evaluation(Trainer *t, Error *err) {
    const Options *o = &t->options;
    int code = evaluate(t->model, t->val, (int)o->batch_size, o->eval_batches, (int)o->grad_accum,
                        &t->state.val_loss, err);
    if (code) return code;
    log_evaluation(&t->log, t->step, t->state.val_loss);
    char unigram[64] = "";
    if (!isnan(t->unigram_loss)) snprintf(unigram, sizeof unigram, " (unigram model: %.4f)", t->unigram_loss);
    progress_print(&t->progress, "step %lld: validation loss %.4f%s", (long long)t->step, t->state.val_loss,
                   unigram);
    return 0;
}

static void show_sample(Trainer *t) {
    const Options *o = &t->options;
    size_t capacity = (size_t)o->sample_tokens * MAX_BYTES_A_TOKEN + 1;
    char *text = malloc(capacity);
    if (!text) return;
    int count = sample_ids(t->model, t->sample_ids, (int)o->sample_tokens, t->config.bos_token_id,
                           t->config.eos_token_id, o->temperature, (uint64_t)(o->seed + t->step), t->logits);
    sample_text(t->tokenizer, t->sample_ids, count, text, capacity);
    log_sample(&t->log, t->step, text);
    progress_print(&t->progress, "step %lld: sample\n%s\n", (long long)t->step, text);
    free(text);
}

int trainer_observe(Trainer *t, Error *err) {
    const ProgressState *s = &t->state;
    log_step(&t->log, t->step, s->loss, s->lr, s->grad_norm, t->step * t->options.tokens_per_step,
             t->tokens_per_second);
    if (!isfinite(s->loss) || !isfinite(s->grad_norm)) return stop_not_finite(t, err);
    progress_show(&t->progress, s);
    int code = t->val && due(t, t->options.eval_every) ? show_evaluation(t, err) : 0;
    if (!code && due(t, t->options.sample_every)) show_sample(t);
    return code;
}

// ---- the end

int trainer_save(Trainer *t, Error *err) {
    char path[PATH_MAX], span[24];
    progress_end(&t->progress); // the last step's line stays
    progress_span(span, sizeof span, now() - t->began);
    progress_print(&t->progress, "%s after %lld steps, %s",
                   t->step == t->options.steps ? "done" : "stopped by a signal", (long long)t->step, span);
    if (!t->options.save) return 0;
    int code = run_dir_path(path, t->options.output, "checkpoint", err);
    if (!code) code = checkpoint_write(path, t->options.output, t->model, err);
    if (!code) progress_print(&t->progress, "checkpoint in %s", path);
    return code;
}

void trainer_close(Trainer *t) {
    if (!t) return;
    if (t->progress.out) progress_end(&t->progress);
    log_close(&t->log);
    llama3_destroy(t->model);
    loader_close(t->val);
    loader_close(t->train);
    tokenizer_close(t->tokenizer);
    free(t->sample_ids);
    free(t->logits);
    free(t);
}
