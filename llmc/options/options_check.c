#include "options/options_check.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/attention_cudnn.h"
#include "model/run_shape.h"
#include "options/options_table.h"
#include "options/options_task.h"

enum { SOME_INT = 2147483647 };

int options_fail_no_model(Error *err) {
    return fail_input(err, "--config FILE (or --init-from DIR) is missing, see --help");
}

static int check_model(const Options *options, Error *err) {
    if (!options->config && !options->init_from && options_resume(options) == RESUME_NEVER && !options->dry_run)
        return options_fail_no_model(err);
    if (options->config && options->init_from)
        return fail_input(err, "--config '%s' and --init-from '%s' exclude each other: expected one of them",
                          options->config, options->init_from);
    return 0;
}

static int check_required(const Options *options, Error *err) {
    int code = check_model(options, err);
    if (code) return code;
    if (!options->train_data && !options->recipe) return fail_input(err, "--train-data GLOB is missing, see --help");
    if (!options->output && !options->dry_run) return fail_input(err, "--output DIR is missing, see --help");
    if (!options->val_data && !options->recipe && options->eval_every &&
        (options_given(options, "eval-every") || options_given(options, "eval-batches")))
        return fail_input(err, "--eval-every needs --val-data GLOB, which is missing");
    if (options->eval_tasks_every && !options->eval_tasks)
        return fail_input(err, "--eval-tasks-every needs --eval-tasks GLOB, which is missing");
    return 0;
}

static int check_adapters(Options *options, Error *err) {
    const char *const depend[] = {"lora-alpha", "lora-targets"};
    for (size_t i = 0; !options->lora_rank && i < sizeof depend / sizeof *depend; i++)
        if (options_given(options, depend[i]))
            return fail_input(err, "--%s needs --lora-rank N, which is missing", depend[i]);
    if (!options->lora_rank) return 0;
    if (options->lora_alpha == 0) options->lora_alpha = 2 * (double)options->lora_rank;
    if (options->config)
        return fail_input(err,
                          "--lora-rank %lld: expected --init-from, whose weights the adapters adapt, found --config",
                          (long long)options->lora_rank);
    if (!options->train_only) return 0;
    return fail_input(err, "--train-only '%.100s' and --lora-rank %lld exclude each other: adapters alone are trained",
                      options->train_only, (long long)options->lora_rank);
}

static int check_micro_batch(const Options *options, Error *err) {
    if (options->batch_size * options->seq_len <= SOME_INT) return 0;
    return fail_input(err, "--batch-size %lld times --seq-len %lld: expected at most %d tokens in a micro-batch",
                      (long long)options->batch_size, (long long)options->seq_len, SOME_INT);
}

static int fail_division(const Options *options, int ranks, bool kept, Error *err) {
    char among[40] = "";
    const long long tokens = options->tokens_per_step, product = options->batch_size * options->seq_len * ranks;
    if (ranks > 1) snprintf(among, sizeof among, " times %d ranks", ranks);
    return fail_input(
        err, "--tokens-per-step %lld%s: expected a multiple of --batch-size %lld times --seq-len %lld%s = %lld", tokens,
        kept ? " (the checkpoint's)" : "", (long long)options->batch_size, (long long)options->seq_len, among, product);
}

int options_settle_step(Options *options, int ranks, StepBefore before, Error *err) {
    const int64_t together = options->batch_size * options->seq_len * ranks; // of all ranks' micro-batches
    bool given = options_given(options, "tokens-per-step");
    const bool kept = !given && !options_given(options, "grad-accum") && before.ranks && before.ranks != ranks;
    if (kept) options->tokens_per_step = before.tokens_per_step;
    if (!given && !kept) {
        options->tokens_per_step = together * options->grad_accum;
        return 0;
    }
    int64_t micro_batches = options->tokens_per_step / together;
    if (options->tokens_per_step % together != 0) return fail_division(options, ranks, kept, err);
    if (options_given(options, "grad-accum") && options->grad_accum != micro_batches)
        return fail_input(err, "--grad-accum %lld: --tokens-per-step %lld needs %lld; give one of the two",
                          (long long)options->grad_accum, (long long)options->tokens_per_step,
                          (long long)micro_batches);
    if (micro_batches > options_find("grad-accum")->max)
        return fail_input(err, "--tokens-per-step %lld: expected at most %.0f micro-batches of %lld tokens",
                          (long long)options->tokens_per_step, options_find("grad-accum")->max, (long long)together);
    options->grad_accum = micro_batches;
    return 0;
}

int options_settle_schedule(Options *options, int64_t kept, Error *err) {
    if (!options_given(options, "schedule-steps")) options->schedule_steps = kept ? kept : options->steps;
    int64_t tenth = options->schedule_steps / 10;
    if (!options_given(options, "warmup-steps")) options->warmup_steps = tenth < 2000 ? tenth : 2000;
    if (options->warmup_steps <= options->schedule_steps) return 0;
    return fail_input(err, "--warmup-steps %lld: expected at most %s %lld", (long long)options->warmup_steps,
                      kept || options_given(options, "schedule-steps") ? "--schedule-steps" : "--steps",
                      (long long)options->schedule_steps);
}

ResumeMode options_resume(const Options *options) {
    if (strcmp(options->resume, "never") == 0) return RESUME_NEVER;
    return strcmp(options->resume, "auto") == 0 ? RESUME_AUTO : RESUME_FOLDER;
}

int options_settle_length(Options *options, uint64_t rows, int ranks, Error *err) {
    if (options->epochs == 0) return 0;
    const double step = (double)options->batch_size * (double)options->grad_accum * ranks; // rows
    const double steps = ceil(options->epochs * (double)rows / step - 1e-9), most = options_find("steps")->max;
    if (steps > most)
        return fail_input(err, "--epochs %g: these are %.0f steps of this data, expected at most %.0f", options->epochs,
                          steps, most);
    options->steps = steps < 1 ? 1 : (int64_t)steps;
    return 0;
}

static int check_saving(const Options *options, Error *err) {
    if (options->save || !options->save_every) return 0;
    return fail_input(err, "--save-every %lld: expected --save on", (long long)options->save_every);
}

static int check_average(const Options *options, Error *err) {
    if (options->average_from && options->master_weights == MASTER_NONE)
        return fail_input(err, "--average-from %lld: expected --master-weights fp32, of which the mean is taken",
                          (long long)options->average_from);
    if (options->average_from || !options_given(options, "average-every")) return 0;
    return fail_input(err, "--average-every %lld needs --average-from N, which is missing",
                      (long long)options->average_every);
}

static int check_sample(Options *options, Error *err) {
    if (options->recipe) return 0; // setup knows the shortest stage
    if (!options_given(options, "sample-tokens") && options->sample_tokens > options->seq_len)
        options->sample_tokens = options->seq_len;
    if (options->sample_tokens <= options->seq_len) return 0;
    return fail_input(err, "--sample-tokens %lld: expected at most --seq-len %lld", (long long)options->sample_tokens,
                      (long long)options->seq_len);
}

// Of the options that say how to train none is needed, and none looked at. seq_len 0: by the model.
static int check_eval_only(Options *options, Error *err) {
    if (!options->init_from) return fail_input(err, "--eval-only needs --init-from DIR, which is missing");
    if (options->config)
        return fail_input(err, "--config '%s': --eval-only takes the configuration of --init-from", options->config);
    int code = options_check_task_evaluates(options, err);
    if (code) return code;
    if (!options->eval_tasks && !options->val_data)
        return fail_input(err, "--eval-only needs --eval-tasks GLOB or --val-data GLOB, both are missing");
    if (!options_given(options, "seq-len")) options->seq_len = 0;
    code = options_check_task_texts(options, err);
    return code ? code : check_micro_batch(options, err);
}

int options_shard_group(const Options *options, int ranks) {
    return options->zero == 0 ? 1 : options->shard_group ? (int)options->shard_group : ranks;
}

// Takes a whole number from the beginning of *text.
static bool take_number(const char **text, int64_t *value) {
    char *end;
    errno = 0;
    *value = strtoll(*text, &end, 10);
    const bool good = end != *text && errno == 0;
    *text = end;
    return good;
}

int options_trace_steps(const Options *options, int64_t *first, int64_t *last, Error *err) {
    const char *rest = options->trace_steps;
    bool good = take_number(&rest, last);
    *first = 1;
    if (good && *rest == ':') {
        *first = *last;
        rest++;
        good = take_number(&rest, last);
    }
    if (good && !*rest && *first >= 1 && *last >= *first) return 0;
    return fail_input(err, "option --trace-steps: expected FIRST:LAST or a number of steps, from 1, found '%s'",
                      options->trace_steps);
}

static int check_trace(const Options *options, Error *err) {
    int64_t first, last;
    if (!options->trace && options_given(options, "trace-steps"))
        return fail_input(err, "--trace-steps needs --trace FILE, which is missing");
    return options_trace_steps(options, &first, &last, err);
}

static int check_attention(const Options *options, Error *err) {
    Error why = {0};
    char name[32];
    if (options->attention == ATTENTION_OWN) return 0;
    options_print_value(name, sizeof name, options_find("attention"), options);
    if (cudnn_attention_check(&why)) return fail_input(err, "--attention %s: %s", name, why.message);
    if (options->eval_only) return fail_input(err, "--attention %s: expected own with --eval-only", name);
    if (options->task != TASK_PRETRAIN)
        return fail_input(err, "--attention %s: cuDNN does not mask documents, expected own with --task %s", name,
                          options_task_name(options));
    if (!options->document_mask) return 0;
    return fail_input(err, "--attention %s: cuDNN does not mask documents, expected --document-mask off", name);
}

static int check_graph(const Options *options, Error *err) {
    if (!options->cuda_graph) return 0;
    if (options->trace) return fail_input(err, "--cuda-graph on: launches no layer by itself, expected no --trace");
    if (options->activations == ACTIVATIONS_HOST)
        return fail_input(err, "--cuda-graph on: captures no copies to the host, expected --activations device");
    if (options->attention == ATTENTION_OWN) return 0;
    return fail_input(err, "--cuda-graph on: captures no library's attention, expected --attention own");
}

int options_check(Options *options, Error *err) {
    int code = options_check_recipe(options, err);
    if (code) return code;
    if ((code = check_graph(options, err))) return code;
    if ((code = check_attention(options, err))) return code;
    if (options->eval_only) return check_eval_only(options, err);
    if ((code = check_required(options, err))) return code;
    if ((code = options_settle_task(options, err))) return code;
    if ((code = check_micro_batch(options, err))) return code;
    if ((code = check_adapters(options, err))) return code;
    if ((code = check_trace(options, err))) return code;
    if ((code = check_sample(options, err))) return code;
    if ((code = check_saving(options, err))) return code;
    if ((code = check_average(options, err))) return code;
    // a run that is resumed keeps its schedule, which is not known yet; nor is how long epochs are
    if (options->epochs > 0 || options_resume(options) != RESUME_NEVER) return 0;
    return options_settle_schedule(options, 0, err);
}
