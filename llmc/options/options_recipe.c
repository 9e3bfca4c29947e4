// What --recipe asks of other options.
#include <stddef.h>
#include <string.h>

#include "model/run_shape.h"
#include "options/options_check.h"
#include "options/options_table.h"

// The recipe's stages say these.
static const char *const set_by_recipe[] = {
    "train-data",
    "val-data",
    "document-mask",
    "steps",
    "epochs",
    "batch-size",
    "seq-len",
    "grad-accum",
    "lr",
    "schedule",
    "warmup-steps",
    "schedule-steps",
    "tokens-per-step",
    "final-lr-fraction",
    "average-from",
    "average-every",
    "eval-every",
    "eval-tasks-every",
};

bool options_set_by_recipe(const OptionSpec *spec) {
    for (size_t i = 0; i < sizeof set_by_recipe / sizeof *set_by_recipe; i++)
        if (strcmp(spec->name, set_by_recipe[i]) == 0) return true;
    return false;
}

static int fail_beside(const Options *options, const char *option, const char *expected, Error *err) {
    char value[64];
    options_print_value(value, sizeof value, options_find(option), options);
    return fail_input(err, "--%s %s: expected %s beside --recipe", option, value, expected);
}

int options_check_recipe(const Options *options, Error *err) {
    if (options->dry_run && !options->recipe) return fail_input(err, "--dry-run needs --recipe FILE, which is missing");
    if (options->ranks && !options->dry_run)
        return fail_input(err, "--ranks %lld needs --dry-run, which is missing", (long long)options->ranks);
    if (!options->recipe) return 0;
    for (size_t i = 0; i < sizeof set_by_recipe / sizeof *set_by_recipe; i++)
        if (options_given(options, set_by_recipe[i]))
            return fail_input(err, "--%s: expected none beside --recipe, whose stages say it", set_by_recipe[i]);
    if (options->task != TASK_PRETRAIN) return fail_beside(options, "task", "pretrain", err);
    if (options->eval_only) return fail_input(err, "--eval-only: expected none beside --recipe, which trains");
    // it returns to a checkpoint that may be of another stage
    if (options->on_spike == ON_SPIKE_ROLLBACK) return fail_beside(options, "on-spike", "log or skip", err);
    // its plans and workspace are made for one length
    if (options->attention != ATTENTION_OWN) return fail_beside(options, "attention", "own", err);
    return 0;
}
