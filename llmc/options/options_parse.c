// The command line.
#include <argp.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/version.h"
#include "comm/start.h"
#include "options/options_check.h"
#include "options/options_table.h"

enum { FIRST_KEY = 1000 };

static const char description[] =
    "train_llama3 " LLMC_VERSION ": train a Llama 3 language model on token shards.\v"
    "Initialisation (without --init-from): every matrix and the embedding are drawn from a normal distribution with "
    "mean "
    "0 and standard deviation 0.02 (the config's initializer_range, if it has one). For the two projections of each "
    "block "
    "that write to the residual stream (attention output, MLP down), the standard deviation is divided by sqrt(2 * "
    "layers). RMSNorm weights are 1.\n\n"
    "Resume: the losses of all later steps and the final weights are bit-identical to those of an uninterrupted run on "
    "a "
    "machine of the same kind. SIGTERM, SIGINT and SIGUSR1 finish the step, write a checkpoint and end the program "
    "with "
    "code 0; the same command with --resume auto continues. A second SIGTERM or SIGINT ends it at once.\n\n"
    "Exit codes: 0 done (after a signal too), 2 bad usage or input, 1 anything else.";

static char help_texts[OPTIONS_ROWS_AT_MOST][320];
static struct argp_option argp_options[OPTIONS_ROWS_AT_MOST + 1];

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
    for (int i = 0; i < options_rows; i++) {
        const OptionSpec *spec = &options_table[i];
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
    argp_options[options_rows] = (struct argp_option){0};
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
    for (int i = 0; i < options_rows; i++) {
        if (options_table[i].type == TYPE_HEADING || argp_options[i].key != key) continue;
        if (options_set(parse->options, &options_table[i], text, parse->err) != 0) return EINVAL;
        parse->options->given[i / 64] |= (uint64_t)1 << i % 64;
        parse->next = state->next;
        return 0;
    }
    return ARGP_ERR_UNKNOWN;
}

// argp says only that it failed. In which way follows from the element where it stopped.
static int explain(const char *element, Error *err) {
    if (element == NULL) return fail_input(err, "bad usage, see --help");
    if (element[0] != '-' || element[1] != '-') {
        const OptionSpec *spec = options_find_letter(element[1]);
        if (spec && spec->value)
            return fail_input(err, "option -%c: expected a value (%s), found none", element[1], spec->value);
        return fail_input(err, "unknown option '%s', see --help", element);
    }
    size_t length = strcspn(element + 2, "=");
    int matches = 0;
    const OptionSpec *match = NULL;
    for (int i = 0; i < options_rows; i++) {
        if (options_table[i].type == TYPE_HEADING || strncmp(options_table[i].name, element + 2, length) != 0) continue;
        matches++;
        match = &options_table[i];
        if (strlen(match->name) == length) matches = 1;
        if (strlen(match->name) == length) break;
    }
    if (matches > 1) return fail_input(err, "option '%s' could be several, see --help", element);
    if (matches == 0) return fail_input(err, "unknown option '%s', see --help", element);
    if (match->value)
        return fail_input(err, "option --%s: expected a value (%s), found none", match->name, match->value);
    return fail_input(err, "option --%s: expected no value, found '%s'", match->name, element + 2 + length + 1);
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
    Start start;
    Error ignored;
    start_read(&start, true, &ignored);
    if (start.rank != 0) return 0; // one of several that are asked at once
    if (options->help)
        argp_help(&argp, stdout, ARGP_HELP_STD_HELP, "train_llama3");
    else if (options->version)
        puts(version_of("train_llama3"));
    return 0;
}

int options_parse(Options *options, int argc, char **argv, Error *err) {
    int code = options_set_defaults(options, err);
    if (!code) code = parse_arguments(options, argc, argv, err);
    return code || options->help || options->version ? code : options_check(options, err);
}
