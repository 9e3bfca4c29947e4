#include "options/options_table.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/parameters.h"

#define BELOW_ONE 0.999999999999
#define POSITIVE 1e-300 // least real number allowed where zero is not

// e: what a change means for a resumed run (OptionEffect without its prefix)
#define HEADING(text)                                                                                                  \
    { .name = text, .type = TYPE_HEADING }
#define OPTION(f, n, l, e, t, ...)                                                                                     \
    { .name = n, .letter = l, .type = t, .effect = EFFECT_##e, .field = offsetof(Options, f), __VA_ARGS__ }
#define TEXT(f, n, l, e, v, h) OPTION(f, n, l, e, TYPE_TEXT, .value = v, .help = h)
#define FLAG(f, n, e, h) OPTION(f, n, 0, e, TYPE_FLAG, .help = h)
#define INTEGER(f, n, l, e, u, i, lo, hi, h)                                                                           \
    OPTION(f, n, l, e, TYPE_INTEGER, .value = "N", .unit = u, .initial = i, .min = lo, .max = hi, .help = h)
#define REAL(f, n, e, u, i, lo, hi, h)                                                                                 \
    OPTION(f, n, 0, e, TYPE_REAL, .value = "X", .unit = u, .initial = i, .min = lo, .max = hi, .help = h)
#define SWITCH(f, n, e, i, h) OPTION(f, n, 0, e, TYPE_SWITCH, .value = "on|off", .initial = i, .help = h)
#define CHOICE(f, n, e, i, c, h) OPTION(f, n, 0, e, TYPE_CHOICE, .value = c, .initial = i, .choices = c, .help = h)

const OptionSpec options_table[] = {
    HEADING("Model:"),
    TEXT(config, "config", 'c', CONTENT, "FILE",
         "config.json of a Llama model, in Hugging Face's format, or the folder that holds it"),
    TEXT(init_from, "init-from", 0, START, "DIR",
         "start from the weights and the config.json in this Hugging Face model directory, instead of --config"),

    HEADING("Recipe:"),
    TEXT(recipe, "recipe", 0, CONTENT, "FILE",
         "train the stages that this JSON file describes, e.g. recipes/mini.json: lengths, batches, learning rate and "
         "mixture of the data are then the file's, and their options are not allowed"),
    FLAG(dry_run, "dry-run", NONE,
         "with --recipe: print what each stage does, how much memory and data it takes, and exit; no data are needed, "
         "and without --config nothing is said of memory and time"),
    OPTION(ranks, "ranks", 0, NONE, TYPE_INTEGER, .value = "N", .initial = "0", .min = 0, .max = 1 << 20,
           .initial_note = "those that it is started on",
           .help = "for --dry-run: what the recipe takes on so many ranks"),

    HEADING("Data:"),
    TEXT(train_data, "train-data", 'i', CONTENT, "GLOB",
         "training shards made by prepare_data.py or prepare_chat.py, e.g. 'data/mine/train_*.bin'"),
    OPTION(val_data, "val-data", 'j', NONE, TYPE_TEXT, .value = "GLOB", .own = true,
           .help = "validation shards; without them there is no validation loss"),
    OPTION(tokenizer, "tokenizer", 0, CONTENT, TYPE_TEXT, .value = "FILE",
           .initial_note = "tokenizer.json beside the shards",
           .help = "tokenizer that the shards were made with, or its folder; it is copied into each checkpoint"),
    SWITCH(document_mask, "document-mask", RESULT, "on", "attention stays within documents"),

    HEADING("Size of a step:"),
    OPTION(steps, "steps", 'n', NONE, TYPE_INTEGER, .value = "N", .unit = "updates", .initial = "1000", .min = 1,
           .max = 1e12, .initial_note = "1000; other tasks than pretrain: --epochs",
           .help = "where the run stops; may be changed on resume"),
    OPTION(epochs, "epochs", 0, NONE, TYPE_REAL, .value = "X", .initial = "0", .min = 0, .max = 1e9,
           .initial_note = "sft 2, dpo and reward 1, pretrain --steps",
           .help = "instead of --steps: passes over the training data, rounded up to a whole step"),
    INTEGER(batch_size, "batch-size", 'b', RESULT, "rows", "8", 1, 1 << 20, "rows in a micro-batch"),
    INTEGER(seq_len, "seq-len", 't', RESULT, "tokens", "256", 1, 1 << 20, "length of a row"),
    INTEGER(grad_accum, "grad-accum", 0, RESULT, "micro-batches", "1", 1, 1 << 20,
            "micro-batches whose gradients are accumulated for a step"),
    OPTION(tokens_per_step, "tokens-per-step", 0, RESULT, TYPE_INTEGER, .value = "N", .unit = "tokens", .min = 1,
           .max = 1e15, .initial_note = "what --grad-accum gives",
           .help = "instead of --grad-accum; a multiple of --batch-size times --seq-len times the number of ranks"),

    HEADING("Optimizer (AdamW):"),
    OPTION(lr, "lr", 0, RESULT, TYPE_REAL, .value = "X", .initial = "3e-4", .min = 0, .max = 1e30,
           .initial_note = "3e-4; other tasks than pretrain: 1e-5", .help = "peak learning rate"),
    CHOICE(schedule, "schedule", RESULT, "cosine", "cosine|linear",
           "shape of the decay from --lr; linear with --final-lr-fraction 0 is the paper's annealing"),
    OPTION(warmup_steps, "warmup-steps", 0, RESULT, TYPE_INTEGER, .value = "N", .unit = "updates", .min = 0,
           .max = 1e12, .initial_note = "a tenth of --schedule-steps, at most 2000",
           .help = "linear warmup from 0 to --lr"),
    OPTION(schedule_steps, "schedule-steps", 0, RESULT, TYPE_INTEGER, .value = "N", .unit = "updates", .min = 1,
           .max = 1e12, .initial_note = "--steps of the run's first start",
           .help = "length of the learning rate schedule; after it the rate stays at its final value"),
    REAL(final_lr_fraction, "final-lr-fraction", RESULT, "of --lr", "0.01", 0, 1,
         "final learning rate, reached at the last step of the schedule"),
    REAL(weight_decay, "weight-decay", RESULT, "times learning rate", "0.1", 0, 1e6,
         "decoupled weight decay; applies to matrices only"),
    REAL(beta1, "beta1", RESULT, NULL, "0.9", 0, BELOW_ONE, "decay of the first moment"),
    REAL(beta2, "beta2", RESULT, NULL, "0.95", 0, BELOW_ONE, "decay of the second moment"),
    REAL(eps, "eps", RESULT, NULL, "1e-8", 1e-30, 1, "added to the root of the second moment"),
    REAL(grad_clip, "grad-clip", RESULT, "L2 norm", "1", 0, 1e30,
         "a gradient longer than this is scaled down to it; 0: no clipping"),

    CHOICE(moments, "moments", RESULT, "fp32", "fp32|bf16",
           "what both moments are kept in; bf16 saves 4 bytes a parameter and is rounded stochastically, seeded by "
           "--seed"),
    CHOICE(master_weights, "master-weights", RESULT, "fp32", "fp32|none",
           "none: update the parameters themselves, rounded stochastically to bf16, which saves 4 bytes a parameter"),

    HEADING("Output:"),
    TEXT(output, "output", 'o', NONE, "DIR",
         "folder of the run: log.jsonl, trainer_options.json, checkpoints/, and checkpoint, a link to the newest of "
         "them"),
    FLAG(overwrite, "overwrite", NONE,
         "replace the run that the output folder already holds; its checkpoints stay until the first new one is "
         "written. With --resume DIR: drop checkpoints in the output folder that are newer than DIR"),
    SWITCH(save, "save", NONE, "on", "write a checkpoint at the end"),
    INTEGER(save_every, "save-every", 0, NONE, "updates", "0", 0, 1e12,
            "write a checkpoint every N steps, in the background; 0: only at the end"),
    INTEGER(keep_last, "keep-last", 0, NONE, "checkpoints", "3", 0, 1000000,
            "older checkpoints are deleted after a new one is complete, or before it where the disk is too full for "
            "both, but never the newest. 0: keep all"),
    INTEGER(keep_every, "keep-every", 0, NONE, "updates", "0", 0, 1e12,
            "also keep every checkpoint at a multiple of N steps; 0: none"),

    HEADING("Resume:"),
    OPTION(resume, "resume", 0, NONE, TYPE_TEXT, .value = "never|auto|DIR", .initial = "never",
           .help = "auto: continue from the newest complete checkpoint in the output folder, or start a new run if "
                   "there is none. DIR: continue from this checkpoint, or from the newest one of this run"),
    FLAG(accept_changes, "accept-changes", NONE,
         "continue even if options, data, tokenizer or precision differ from the checkpoint's; they are listed"),

    HEADING("Finetuning:"),
    CHOICE(
        task, "task", RESULT, "pretrain", "pretrain|sft|dpo|reward",
        "pretrain: train on texts from prepare_data.py. All others need --init-from and data from prepare_chat.py: "
        "sft: train on the assistant's turns; dpo: prefer the chosen of two answers to the rejected; reward: a model "
        "that scores answers"),
    FLAG(skip_long, "skip-long", RESULT,
         "leave out conversations and comparisons longer than --seq-len instead of refusing them; none is truncated"),
    CHOICE(dpo_loss, "dpo-loss", RESULT, "sigmoid", "sigmoid|ipo",
           "loss of --task dpo: -log sigmoid of beta times the margin, or IPO's squared distance of means per token"),
    REAL(dpo_beta, "dpo-beta", RESULT, NULL, "0.1", POSITIVE, 1e6,
         "how strongly --task dpo holds the policy to the reference model"),
    REAL(label_smoothing, "label-smoothing", RESULT, NULL, "0", 0, 0.5,
         "for --task dpo (sigmoid) and reward: the assumed share of comparisons with chosen and rejected swapped"),
    REAL(dpo_nll, "dpo-nll", RESULT, NULL, "0.2", 0, 1e6,
         "weight of the chosen answer's negative log-likelihood in --task dpo, its mean over tokens"),
    FLAG(dpo_nll_sum, "dpo-nll-sum", RESULT, "sum that log-likelihood over the answer instead of taking the mean"),
    FLAG(reference_only, "reference-only", NONE,
         "for --task dpo: compute the reference model's log-probabilities, store them beside the data, and exit"),
    TEXT(train_only, "train-only", 0, RESULT, "PATTERNS",
         "train only tensors whose Hugging Face name matches one of these patterns, separated by commas, e.g. "
         "'model.layers.1[0-5].*,model.norm.weight'; the others are frozen and take no gradient or optimizer memory"),
    INTEGER(lora_rank, "lora-rank", 0, RESULT, NULL, "0", 0, LORA_MAX_RANK,
            "train LoRA adapters of this rank, a multiple of 8, beside the frozen weights of --init-from; checkpoints "
            "contain only the adapters, in PEFT's format. 0: none"),
    OPTION(lora_alpha, "lora-alpha", 0, RESULT, TYPE_REAL, .value = "X", .initial = "0", .min = 0, .max = 1e9,
           .initial_note = "twice --lora-rank",
           .help = "an adapter is scaled by this number divided by its rank; 0: twice the rank"),
    TEXT(lora_targets, "lora-targets", 0, RESULT, "LIST",
         "projections that get adapters, e.g. 'q_proj,v_proj'; without it all seven: q_proj,k_proj,v_proj,o_proj,"
         "gate_proj,up_proj,down_proj"),

    HEADING("Running average of the weights:"),
    INTEGER(
        average_from, "average-from", 0, RESULT, "updates", "0", 0, 1e12,
        "keep the running mean of the weights from step N on; each checkpoint then contains it as a model, averaged/. "
        "0: none"),
    INTEGER(average_every, "average-every", 0, RESULT, "updates", "1", 1, 1e12,
            "include only every N-th step in the mean"),

    HEADING("Evaluation, samples, log:"),
    INTEGER(eval_every, "eval-every", 0, NONE, "updates", "100", 0, 1e12,
            "compute the validation loss every N steps and at the end; 0: never"),
    INTEGER(eval_batches, "eval-batches", 0, NONE, "micro-batches", "20", 1, 1e9,
            "size of the fixed set that the validation loss is computed on"),
    TEXT(eval_tasks, "eval-tasks", 0, NONE, "GLOB",
         "evaluations made by prepare_eval.py, e.g. 'data/mine/*.eval': multiple choice and perplexity"),
    INTEGER(eval_tasks_every, "eval-tasks-every", 0, NONE, "updates", "0", 0, 1e12,
            "score --eval-tasks every N steps and at the end; 0: only at the end"),
    FLAG(eval_only, "eval-only", NONE,
         "do not train: score --eval-tasks and --val-data with the model of --init-from, and exit. --seq-len then "
         "defaults to the model's max_position_embeddings, at most 2048, and all of --val-data is scored unless "
         "--eval-batches limits it. --output DIR: log the results in DIR/log.jsonl too"),
    INTEGER(sample_every, "sample-every", 0, NONE, "updates", "0", 0, 1e12,
            "generate a text every N steps and at the end; 0: never"),
    INTEGER(sample_tokens, "sample-tokens", 0, NONE, "tokens", "64", 1, 1 << 20,
            "length of the text of --sample-every; at most --seq-len"),
    REAL(temperature, "temperature", NONE, NULL, "0.8", 0, 1e6, "temperature of the sampled text; 0: greedy"),
    INTEGER(log_every, "log-every", 0, NONE, "updates", "10", 1, 1e12,
            "print a line every N steps if the output is not a terminal. log.jsonl has every step"),

    HEADING("Guards:"),
    INTEGER(max_skipped, "max-skipped", 0, NONE, "updates", "10", 1, 1e12,
            "a step whose loss or gradient is not finite is skipped and counted; N of them in a row end the run"),
    REAL(spike_deviations, "spike-deviations", RESULT, "standard deviations", "6", 0, 1e6,
         "a loss this far above its running mean is logged as a spike; 0: no loss is"),
    CHOICE(on_spike, "on-spike", RESULT, "log", "log|skip|rollback",
           "skip: leave out the update of a spike; rollback: return to the newest checkpoint and continue with the "
           "batches that follow the spike"),
    INTEGER(checksum_every, "checksum-every", 0, NONE, "updates", "100", 0, 1e12,
            "log a checksum of the weights every N steps and at the end; 0: never"),

    HEADING("Machine:"),
    INTEGER(seed, "seed", 's', RESULT, NULL, "42", 0, 9007199254740992.0,
            "seed of initialisation, data order and sampled text; the same seed gives the same bits"),
    CHOICE(
        recompute, "recompute", NONE, "none", "none|cheap|block",
        "what the backward pass recomputes to save memory, with the same bits: cheap: the outputs of norms and SwiGLU, "
        "about a third of what a layer keeps, at little cost; block: all but each block's input"),
    CHOICE(
        activations, "activations", NONE, "device", "device|host",
        "where the inputs of layers wait for the backward pass; host: in page-locked memory of the host, to which each "
        "is copied while its layer is computed, with the same bits; for long rows, with --recompute block"),
    CHOICE(
        optimizer_state, "optimizer-state", NONE, "device", "device|host",
        "where master weights and moments are; host: in page-locked memory of the host, from which the update streams "
        "them through the device, with the same bits"),
    CHOICE(
        attention, "attention", RESULT, "own", "own|cudnn|cudnn-nondeterministic",
        "who computes attention: this program's kernels, or cuDNN (make USE_CUDNN=1), which needs --document-mask off "
        "and takes a workspace that grows with the square of --seq-len; with cudnn-nondeterministic it takes less, "
        "but every run has other bits"),
    SWITCH(cuda_graph, "cuda-graph", NONE, "off",
           "launch a micro-batch's kernels as one CUDA graph, with the same bits, for models so small that the host "
           "launches them more slowly than the GPU ends them; one rank, with --attention own and without --trace"),
    TEXT(matmul_algorithms, "matmul-algorithms", 0, RESULT, "FILE",
         "for the cuda build: a file of cuBLASLt's algorithms by GPU, version and shape. What it lacks is timed at its "
         "first use and added, by a single rank; several ranks only read it. Only runs with the same file have the "
         "same bits. Without it cuBLASLt's first proposal is used, which is the same in every run"),
    OPTION(threads, "threads", 0, NONE, TYPE_INTEGER, .value = "N", .unit = "threads", .initial = "0", .min = 0,
           .max = 4096, .own = true,
           .help = "for the cpu build; 0: OMP_NUM_THREADS, or one per processor, divided among the ranks of a machine"),
    OPTION(peak_tflops, "peak-tflops", 0, NONE, TYPE_REAL, .value = "X", .unit = "TFLOP/s", .initial = "0", .min = 0,
           .max = 1e9, .own = true,
           .help = "peak rate that 'of peak' in the progress line refers to; 0: known from the GPU's name"),

    HEADING("Many ranks (mpirun, srun, torchrun):"),
    CHOICE(zero, "zero", NONE, "1", "0|1|2",
           "ZeRO stage: what is sharded among the ranks: 0 nothing, 1 the optimizer state, 2 gradients too"),
    INTEGER(shard_group, "shard-group", 0, NONE, "ranks", "0", 0, 1 << 20,
            "shard within groups of N neighbouring ranks, each of which has all of it; N divides the number of ranks; "
            "0: all ranks"),
    CHOICE(
        grad_reduce, "grad-reduce", RESULT, "fp32", "fp32|bf16",
        "how gradients travel between ranks; bf16 halves the bytes: each rank's are rounded to nearest, and added up "
        "in fp32"),
    SWITCH(overlap, "overlap", NONE, "on", "ranks communicate while they compute"),
    CHOICE(transport, "transport", NONE, "auto", "auto|nccl|mpi",
           "nccl needs a GPU per rank; auto: nccl where there is one, else mpi"),
    INTEGER(rank_timeout, "rank-timeout", 0, NONE, "seconds", "60", 0, 1e6,
            "when a rank is dead, stopped or hung for this long, it is named and all others end; 0: never"),
    TEXT(trace, "trace", 0, NONE, "FILE",
         "write a timeline of computation and communication of all ranks, for Perfetto or chrome://tracing"),
    OPTION(trace_steps, "trace-steps", 0, NONE, TYPE_TEXT, .value = "A:B", .initial = "2:4",
           .help = "steps that --trace records: from A to B, or, as one number, the first N; the first step of this "
                   "start counts as 1"),
    OPTION(help, "help", 'h', NONE, TYPE_FLAG, .help = "print this and exit"),
    OPTION(version, "version", 'V', NONE, TYPE_FLAG, .help = "print version, commit, target and precision, and exit"),
};

enum { ROWS = sizeof options_table / sizeof options_table[0] };
_Static_assert(ROWS <= (int)OPTIONS_ROWS_AT_MOST && OPTIONS_ROWS_AT_MOST == 8 * sizeof((Options){0}.given),
               "Options.given has a bit for each row");
const int options_rows = ROWS;

void *options_field(Options *options, const OptionSpec *spec) { return (char *)options + spec->field; }
const void *options_field_of(const Options *options, const OptionSpec *spec) {
    return (const char *)options + spec->field;
}

const OptionSpec *options_find(const char *name) {
    for (int i = 0; i < options_rows; i++)
        if (options_table[i].type != TYPE_HEADING && strcmp(options_table[i].name, name) == 0) return &options_table[i];
    return NULL;
}

const OptionSpec *options_find_letter(int letter) {
    for (int i = 0; i < options_rows; i++)
        if (options_table[i].type != TYPE_HEADING && options_table[i].letter == letter) return &options_table[i];
    return NULL;
}

bool options_given(const Options *options, const char *name) {
    const size_t row = (size_t)(options_find(name) - options_table);
    return options->given[row / 64] >> row % 64 & 1;
}

// ---- values

// A bound as a person writes it: whole numbers in full, up to where the table's powers of ten begin.
static void print_bound(char *text, size_t capacity, double bound) {
    if (bound == POSITIVE)
        snprintf(text, capacity, "above 0");
    else if (bound == BELOW_ONE)
        snprintf(text, capacity, "below 1");
    else if (fabs(bound) < 1e7 && bound == floor(bound))
        snprintf(text, capacity, "%.0f", bound);
    else
        snprintf(text, capacity, "%g", bound);
}

static int fail_value(const OptionSpec *spec, const char *found, Error *err) {
    if (spec->type == TYPE_SWITCH)
        return fail_input(err, "option --%s: expected on or off, found '%s'", spec->name, found);
    if (spec->type == TYPE_CHOICE)
        return fail_input(err, "option --%s: expected one of %s, found '%s'", spec->name, spec->choices, found);
    char low[32], high[32];
    print_bound(low, sizeof low, spec->min);
    print_bound(high, sizeof high, spec->max);
    return fail_input(err, "option --%s: expected a %snumber, %s to %s%s%s%s, found '%s'", spec->name,
                      spec->type == TYPE_INTEGER ? "whole " : "", low, high, spec->unit ? " (" : "",
                      spec->unit ? spec->unit : "", spec->unit ? ")" : "", found);
}

static int set_integer(const OptionSpec *spec, int64_t *target, const char *text, Error *err) {
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno || value < spec->min || value > spec->max) return fail_value(spec, text, err);
    *target = value;
    return 0;
}

static int set_real(const OptionSpec *spec, double *target, const char *text, Error *err) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !isfinite(value) || value < spec->min || value > spec->max)
        return fail_value(spec, text, err);
    *target = value;
    return 0;
}

static int set_switch(const OptionSpec *spec, bool *target, const char *text, Error *err) {
    if (strcmp(text, "on") != 0 && strcmp(text, "off") != 0) return fail_value(spec, text, err);
    *target = strcmp(text, "on") == 0;
    return 0;
}

// The choice of that index: its first character in spec->choices, and its length; NULL: no such index.
static const char *choice_at(const OptionSpec *spec, int64_t index, size_t *length) {
    const char *choice = spec->choices;
    for (; index > 0 && choice; index--) {
        choice = strchr(choice, '|');
        if (choice) choice++;
    }
    if (choice) *length = strcspn(choice, "|");
    return choice;
}

static int set_choice(const OptionSpec *spec, int64_t *target, const char *text, Error *err) {
    size_t length;
    const char *choice;
    for (int64_t i = 0; (choice = choice_at(spec, i, &length)); i++) {
        if (strlen(text) != length || memcmp(text, choice, length) != 0) continue;
        *target = i;
        return 0;
    }
    return fail_value(spec, text, err);
}

static int set_text(const OptionSpec *spec, const char **target, const char *text, Error *err) {
    if (*text == 0) return fail_input(err, "option --%s: expected %s, found an empty string", spec->name, spec->value);
    *target = text;
    return 0;
}

int options_set(Options *options, const OptionSpec *spec, const char *text, Error *err) {
    void *target = options_field(options, spec);
    switch (spec->type) {
    case TYPE_TEXT:
        return set_text(spec, target, text, err);
    case TYPE_INTEGER:
        return set_integer(spec, target, text, err);
    case TYPE_REAL:
        return set_real(spec, target, text, err);
    case TYPE_SWITCH:
        return set_switch(spec, target, text, err);
    case TYPE_CHOICE:
        return set_choice(spec, target, text, err);
    case TYPE_FLAG:
        *(bool *)target = true;
        return 0;
    case TYPE_HEADING:
        break;
    }
    return 0;
}

int options_set_defaults(Options *options, Error *err) {
    memset(options, 0, sizeof *options);
    for (int i = 0; i < options_rows; i++) {
        if (!options_table[i].initial) continue;
        int code = options_set(options, &options_table[i], options_table[i].initial, err);
        if (code) return code;
    }
    return 0;
}

// The shortest digits that are this number.
static void print_real(char *text, size_t capacity, double value) {
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, capacity, "%.*g", digits, value);
        if (strtod(text, NULL) == value) return;
    }
}

void options_print_value(char *text, size_t capacity, const OptionSpec *spec, const Options *options) {
    const void *value = options_field_of(options, spec);
    size_t length = 0;
    const char *choice;
    switch (spec->type) {
    case TYPE_TEXT:
        choice = *(const char *const *)value;
        snprintf(text, capacity, "%s", choice ? choice : "none");
        return;
    case TYPE_INTEGER:
        snprintf(text, capacity, "%lld", (long long)*(const int64_t *)value);
        return;
    case TYPE_REAL:
        print_real(text, capacity, *(const double *)value);
        return;
    case TYPE_SWITCH:
    case TYPE_FLAG:
        snprintf(text, capacity, "%s", *(const bool *)value ? "on" : "off");
        return;
    case TYPE_CHOICE:
        choice = choice_at(spec, *(const int64_t *)value, &length);
        snprintf(text, capacity, "%.*s", (int)length, choice ? choice : "");
        return;
    case TYPE_HEADING:
        break;
    }
    snprintf(text, capacity, "%s", "");
}
