#include "train/options.h"

#include <argp.h>
#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

typedef enum {
    TYPE_HEADING,
    TYPE_TEXT,
    TYPE_FLAG,
    TYPE_INTEGER,
    TYPE_REAL,
    TYPE_SWITCH,
    TYPE_CHOICE
} OptionType;

typedef struct {
    const char *name; // of a heading: its text
    int letter;       // short name, 0: none
    OptionType type;
    size_t field;             // offset in Options
    const char *value;        // how --help calls the value
    const char *unit;         // NULL: has none
    const char *initial;      // default as it would be typed; NULL: none
    const char *initial_note; // what --help says in place of initial
    double min, max;          // inclusive (TYPE_INTEGER, TYPE_REAL)
    const char *choices;      // TYPE_CHOICE: names divided by |
    const char *help;
} OptionSpec;

#define BELOW_ONE 0.999999999999
#define POSITIVE 1e-300 // least real number allowed where zero is not
#define SOME_INT 2147483647

#define HEADING(text)                                                                                        \
    { .name = text, .type = TYPE_HEADING }
#define OPTION(f, n, l, t, ...)                                                                              \
    { .name = n, .letter = l, .type = t, .field = offsetof(Options, f), __VA_ARGS__ }
#define TEXT(f, n, l, v, h) OPTION(f, n, l, TYPE_TEXT, .value = v, .help = h)
#define FLAG(f, n, h) OPTION(f, n, 0, TYPE_FLAG, .help = h)
#define INTEGER(f, n, l, u, i, lo, hi, h)                                                                    \
    OPTION(f, n, l, TYPE_INTEGER, .value = "N", .unit = u, .initial = i, .min = lo, .max = hi, .help = h)
#define REAL(f, n, u, i, lo, hi, h)                                                                          \
    OPTION(f, n, 0, TYPE_REAL, .value = "X", .unit = u, .initial = i, .min = lo, .max = hi, .help = h)
#define SWITCH(f, n, i, h) OPTION(f, n, 0, TYPE_SWITCH, .value = "on|off", .initial = i, .help = h)
#define CHOICE(f, n, i, c, h) OPTION(f, n, 0, TYPE_CHOICE, .value = c, .initial = i, .choices = c, .help = h)

static const OptionSpec table[] = {
    HEADING("Model:"),
    TEXT(config, "config", 'c', "FILE", "config.json of a Llama model, as Hugging Face writes it"),
    TEXT(init_from, "init-from", 0, "DIR",
         "start from the weights and the config.json of this Hugging Face model directory, in place of "
         "--config"),

    HEADING("Data:"),
    TEXT(train_data, "train-data", 'i', "GLOB",
         "training shards made by prepare_data.py, e.g. 'data/train_*.bin'"),
    TEXT(val_data, "val-data", 'j', "GLOB", "validation shards; without them there is no validation loss"),
    OPTION(tokenizer, "tokenizer", 0, TYPE_TEXT, .value = "FILE",
           .initial_note = "tokenizer.json beside the shards",
           .help = "tokenizer the shards were made with; it goes into the checkpoint"),
    SWITCH(document_mask, "document-mask", "on", "attention stays inside documents"),

    HEADING("Output:"),
    TEXT(output, "output", 'o', "DIR", "folder of the run: log.jsonl, trainer_options.json, checkpoint/"),
    FLAG(overwrite, "overwrite",
         "allow an output folder that already holds a run, and replace that run; its checkpoint stays until "
         "the new one is written"),
    SWITCH(save, "save", "on", "write the checkpoint at the end"),

    HEADING("Size of a step:"),
    INTEGER(steps, "steps", 'n', "updates", "1000", 1, 1e12,
            "length of the run, and of the learning rate's schedule"),
    INTEGER(batch_size, "batch-size", 'b', "rows", "8", 1, 1 << 20, "rows of a micro-batch"),
    INTEGER(seq_len, "seq-len", 't', "tokens", "256", 1, 1 << 20, "length of a row"),
    INTEGER(grad_accum, "grad-accum", 0, "micro-batches", "1", 1, 1 << 20,
            "micro-batches whose gradients make a step"),
    OPTION(tokens_per_step, "tokens-per-step", 0, TYPE_INTEGER, .value = "N", .unit = "tokens", .min = 1,
           .max = 1e15, .initial_note = "what --grad-accum gives",
           .help = "in place of --grad-accum; a multiple of --batch-size times --seq-len"),

    HEADING("Optimizer (AdamW):"),
    REAL(lr, "lr", NULL, "3e-4", 0, 1e30, "peak learning rate"),
    OPTION(warmup_steps, "warmup-steps", 0, TYPE_INTEGER, .value = "N", .unit = "updates", .min = 0,
           .max = 1e12, .initial_note = "a tenth of --steps, at most 2000",
           .help = "linear warmup from 0 to --lr"),
    REAL(final_lr_fraction, "final-lr-fraction", "of --lr", "0.01", 0, 1,
         "where the cosine ends, at the last step"),
    REAL(weight_decay, "weight-decay", "times learning rate", "0.1", 0, 1e6, "decoupled; on matrices only"),
    REAL(beta1, "beta1", NULL, "0.9", 0, BELOW_ONE, "decay of the first moment"),
    REAL(beta2, "beta2", NULL, "0.95", 0, BELOW_ONE, "decay of the second moment"),
    REAL(eps, "eps", NULL, "1e-8", POSITIVE, 1, "added to the root of the second moment"),
    REAL(grad_clip, "grad-clip", "L2 norm", "1", 0, 1e30,
         "longest gradient that is applied unscaled; 0: no clipping"),

    HEADING("While it runs:"),
    INTEGER(eval_every, "eval-every", 0, "updates", "100", 0, 1e12,
            "validation loss every N steps and at the end; 0: never"),
    INTEGER(eval_batches, "eval-batches", 0, "micro-batches", "20", 1, 1e9,
            "size of the fixed set that validation loss is taken over"),
    INTEGER(sample_every, "sample-every", 0, "updates", "0", 0, 1e12,
            "write a text every N steps and at the end; 0: never"),
    INTEGER(sample_tokens, "sample-tokens", 0, "tokens", "64", 1, 1 << 20,
            "length of the text written by --sample-every; at most --seq-len"),
    REAL(temperature, "temperature", NULL, "0.8", 0, 1e6,
         "of the sampled text; 0: always the likeliest token"),
    INTEGER(log_every, "log-every", 0, "updates", "10", 1, 1e12,
            "where the output is no terminal: a line every N steps. log.jsonl has every step"),

    HEADING("Machine:"),
    INTEGER(seed, "seed", 's', NULL, "42", 0, 9007199254740992.0,
            "of initialisation, order of the data and sampled text; the same seed gives the same bits"),
    CHOICE(recompute, "recompute", "none", "none|block",
           "block: keep only each block's input and compute its forward pass twice; takes less memory"),
    INTEGER(threads, "threads", 0, "threads", "0", 0, 4096,
            "of the cpu build; 0: one for each processor, or OMP_NUM_THREADS"),
    REAL(peak_tflops, "peak-tflops", "TFLOP/s", "0", 0, 1e9,
         "what 'of peak' in the progress line is measured by; 0: known from the GPU's name"),
    OPTION(help, "help", 'h', TYPE_FLAG, .help = "print this and exit"),
};

enum { ROWS = sizeof table / sizeof table[0], FIRST_KEY = 1000 };
_Static_assert(ROWS <= 64, "Options.given has a bit for each row");

static const char description[] = "Train a Llama 3 language model on token shards.\v"
                                  "Initialisation (without --init-from): every matrix and the embedding are "
                                  "drawn from a normal distribution with "
                                  "mean 0 and standard deviation 0.02 (the config's initializer_range where "
                                  "it gives one); the two projections of "
                                  "each block that write to the residual stream (attention output, MLP down) "
                                  "with that divided by sqrt(2 * layers); "
                                  "RMSNorm weights are 1.\n\n"
                                  "Exit codes: 0 done (after SIGINT or SIGTERM too: the step is finished and "
                                  "the checkpoint written; a second "
                                  "signal ends at once), 2 bad usage or input, 1 anything else.";

static void *field(Options *options, const OptionSpec *spec) {
    return (char *)options + spec->field;
}
static const void *field_of(const Options *options, const OptionSpec *spec) {
    return (const char *)options + spec->field;
}

static const OptionSpec *find(const char *name) {
    for (int i = 0; i < ROWS; i++)
        if (table[i].type != TYPE_HEADING && strcmp(table[i].name, name) == 0) return &table[i];
    return NULL;
}

static const OptionSpec *find_letter(int letter) {
    for (int i = 0; i < ROWS; i++)
        if (table[i].type != TYPE_HEADING && table[i].letter == letter) return &table[i];
    return NULL;
}

static bool given(const Options *options, const char *name) {
    return options->given >> (find(name) - table) & 1;
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
        return fail_input(err, "option --%s: expected one of %s, found '%s'", spec->name, spec->choices,
                          found);
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
    if (end == text || *end || errno || value < spec->min || value > spec->max)
        return fail_value(spec, text, err);
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
    if (*text == 0)
        return fail_input(err, "option --%s: expected %s, found an empty string", spec->name, spec->value);
    *target = text;
    return 0;
}

static int set(Options *options, const OptionSpec *spec, const char *text, Error *err) {
    void *target = field(options, spec);
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

// ---- argp

static char help_texts[ROWS][320];
static struct argp_option argp_options[ROWS + 1];

static void compose_help(char *out, size_t capacity, const OptionSpec *spec) {
    const char *initial = spec->initial_note ? spec->initial_note : spec->initial;
    const char *unit = spec->unit ? spec->unit : "";
    if (initial)
        snprintf(out, capacity, "%s (%s%sdefault: %s)", spec->help, unit, spec->unit ? "; " : "", initial);
    else if (spec->unit)
        snprintf(out, capacity, "%s (%s)", spec->help, unit);
    else
        snprintf(out, capacity, "%s", spec->help);
}

static void make_argp_options(void) {
    int group = 0;
    for (int i = 0; i < ROWS; i++) {
        const OptionSpec *spec = &table[i];
        struct argp_option *option = &argp_options[i];
        if (spec->type == TYPE_HEADING) {
            *option = (struct argp_option){.doc = spec->name, .group = ++group};
            continue;
        }
        compose_help(help_texts[i], sizeof help_texts[i], spec);
        *option = (struct argp_option){.name = spec->name,
                                       .key = spec->letter ? spec->letter : FIRST_KEY + i,
                                       .arg = spec->value,
                                       .doc = help_texts[i],
                                       .group = group};
    }
    argp_options[ROWS] = (struct argp_option){0};
}

typedef struct {
    Options *options;
    Error *err;
    int next; // first element of argv that is not yet taken: the culprit when argp itself gives up
} Parse;

static error_t take(int key, char *text, struct argp_state *state) {
    Parse *parse = state->input;
    if (key == ARGP_KEY_ARG) {
        fail_input(parse->err, "unexpected argument '%s': options begin with --, see --help", text);
        return EINVAL;
    }
    for (int i = 0; i < ROWS; i++) {
        if (table[i].type == TYPE_HEADING || argp_options[i].key != key) continue;
        if (set(parse->options, &table[i], text, parse->err) != 0) return EINVAL;
        parse->options->given |= (uint64_t)1 << i;
        parse->next = state->next;
        return 0;
    }
    return ARGP_ERR_UNKNOWN;
}

// argp says only that it failed. In which way follows from the element where it stopped.
static int explain(const char *element, Error *err) {
    if (element == NULL) return fail_input(err, "bad usage, see --help");
    if (element[0] != '-' || element[1] != '-') {
        const OptionSpec *spec = find_letter(element[1]);
        if (spec && spec->value)
            return fail_input(err, "option -%c: expected a value (%s), found none", element[1], spec->value);
        return fail_input(err, "unknown option '%s', see --help", element);
    }
    size_t length = strcspn(element + 2, "=");
    int matches = 0;
    const OptionSpec *match = NULL;
    for (int i = 0; i < ROWS; i++) {
        if (table[i].type == TYPE_HEADING || strncmp(table[i].name, element + 2, length) != 0) continue;
        matches++;
        match = &table[i];
        if (strlen(match->name) == length) matches = 1;
        if (strlen(match->name) == length) break;
    }
    if (matches > 1) return fail_input(err, "option '%s' could be several, see --help", element);
    if (matches == 0) return fail_input(err, "unknown option '%s', see --help", element);
    if (match->value)
        return fail_input(err, "option --%s: expected a value (%s), found none", match->name, match->value);
    return fail_input(err, "option --%s: expected no value, found '%s'", match->name,
                      element + 2 + length + 1);
}

static int parse_arguments(Options *options, int argc, char **argv, Error *err) {
    make_argp_options();
    struct argp argp = {.options = argp_options, .parser = take, .doc = description};
    Parse parse = {options, err, 1};
    Error none = {0};
    *err = none;
    // argp's own messages have two lines and its own exit code: all of it is silenced, and said here.
    unsigned flags = ARGP_IN_ORDER | ARGP_NO_ERRS | ARGP_NO_EXIT | ARGP_NO_HELP;
    if (argp_parse(&argp, argc, argv, flags, NULL, &parse) != 0)
        return err->code ? err->code : explain(parse.next < argc ? argv[parse.next] : NULL, err);
    if (options->help) argp_help(&argp, stdout, ARGP_HELP_STD_HELP, "train_llama3");
    return 0;
}

// ---- what must hold between options

static int check_required(const Options *options, Error *err) {
    if (!options->config && !options->init_from)
        return fail_input(err, "--config FILE (or --init-from DIR) is missing, see --help");
    if (options->config && options->init_from)
        return fail_input(err, "--config '%s' and --init-from '%s' exclude each other: expected one of them",
                          options->config, options->init_from);
    if (!options->train_data) return fail_input(err, "--train-data GLOB is missing, see --help");
    if (!options->output) return fail_input(err, "--output DIR is missing, see --help");
    if (!options->val_data && (given(options, "eval-every") || given(options, "eval-batches")) &&
        options->eval_every)
        return fail_input(err, "--eval-every needs --val-data GLOB, which is missing");
    return 0;
}

static int derive_tokens_per_step(Options *options, Error *err) {
    int64_t micro_batch = options->batch_size * options->seq_len;
    if (micro_batch > SOME_INT)
        return fail_input(
            err, "--batch-size %lld times --seq-len %lld: expected at most %d tokens in a micro-batch",
            (long long)options->batch_size, (long long)options->seq_len, SOME_INT);
    if (!given(options, "tokens-per-step")) {
        options->tokens_per_step = micro_batch * options->grad_accum;
        return 0;
    }
    int64_t micro_batches = options->tokens_per_step / micro_batch;
    if (options->tokens_per_step % micro_batch != 0)
        return fail_input(
            err,
            "--tokens-per-step %lld: expected a multiple of --batch-size %lld times --seq-len %lld = %lld",
            (long long)options->tokens_per_step, (long long)options->batch_size, (long long)options->seq_len,
            (long long)micro_batch);
    if (given(options, "grad-accum") && options->grad_accum != micro_batches)
        return fail_input(err, "--grad-accum %lld: --tokens-per-step %lld needs %lld; give one of the two",
                          (long long)options->grad_accum, (long long)options->tokens_per_step,
                          (long long)micro_batches);
    if (micro_batches > find("grad-accum")->max)
        return fail_input(err, "--tokens-per-step %lld: expected at most %.0f micro-batches of %lld tokens",
                          (long long)options->tokens_per_step, find("grad-accum")->max,
                          (long long)micro_batch);
    options->grad_accum = micro_batches;
    return 0;
}

static int derive_warmup(Options *options, Error *err) {
    if (!given(options, "warmup-steps"))
        options->warmup_steps = options->steps / 10 < 2000 ? options->steps / 10 : 2000;
    if (options->warmup_steps <= options->steps) return 0;
    return fail_input(err, "--warmup-steps %lld: expected at most --steps %lld",
                      (long long)options->warmup_steps, (long long)options->steps);
}

static int check_sample(Options *options, Error *err) {
    if (!given(options, "sample-tokens") && options->sample_tokens > options->seq_len)
        options->sample_tokens = options->seq_len;
    if (options->sample_tokens <= options->seq_len) return 0;
    return fail_input(err, "--sample-tokens %lld: expected at most --seq-len %lld",
                      (long long)options->sample_tokens, (long long)options->seq_len);
}

int options_parse(Options *options, int argc, char **argv, Error *err) {
    memset(options, 0, sizeof *options);
    for (int i = 0; i < ROWS; i++) {
        if (!table[i].initial) continue;
        int code = set(options, &table[i], table[i].initial, err);
        if (code) return code;
    }
    int code = parse_arguments(options, argc, argv, err);
    if (code || options->help) return code;
    if ((code = check_required(options, err))) return code;
    if ((code = derive_tokens_per_step(options, err))) return code;
    if ((code = derive_warmup(options, err))) return code;
    return check_sample(options, err);
}

// ---- the run's copy

static cJSON *to_json(const Options *options, const OptionSpec *spec) {
    const void *value = field_of(options, spec);
    size_t length = 0;
    switch (spec->type) {
    case TYPE_TEXT:
        return *(const char *const *)value ? cJSON_CreateString(*(const char *const *)value)
                                           : cJSON_CreateNull();
    case TYPE_INTEGER:
        return cJSON_CreateNumber((double)*(const int64_t *)value);
    case TYPE_REAL:
        return cJSON_CreateNumber(*(const double *)value);
    case TYPE_SWITCH:
    case TYPE_FLAG:
        return cJSON_CreateBool(*(const bool *)value);
    case TYPE_CHOICE: {
        char name[32];
        const char *choice = choice_at(spec, *(const int64_t *)value, &length);
        snprintf(name, sizeof name, "%.*s", (int)length, choice ? choice : "");
        return cJSON_CreateString(name);
    }
    case TYPE_HEADING:
        break;
    }
    return NULL;
}

int options_save(const Options *options, const char *path, Error *err) {
    cJSON *root = cJSON_CreateObject();
    for (int i = 0; i < ROWS; i++) {
        if (table[i].type == TYPE_HEADING || table[i].field == offsetof(Options, help)) continue;
        cJSON_AddItemToObject(root, table[i].name, to_json(options, &table[i]));
    }
    char *text = cJSON_Print(root);
    cJSON_Delete(root);
    if (!text) return fail_fault(err, "%s: out of memory", path);
    int code = file_write_whole(path, text, strlen(text), err);
    cJSON_free(text);
    return code;
}
