#include "options/options_task.h"

#include <stddef.h>

#include "options/options_table.h"

// lr, epochs: where neither --lr nor --steps nor --epochs was given; 0: the options table's. The rate is the paper's, of SFT
// and DPO (section 4.1).
static const struct {
    const char *name;
    bool finetunes;    // begins with a model, trains it on rows of prepare_chat.py
    bool no_texts;     // its model scores answers and writes none
    bool needs_policy; // its loss compares with the model that training began with
    double lr, epochs;
} tasks[] = {
    [TASK_PRETRAIN] = {.name = "pretrain"},
    [TASK_SFT] = {.name = "sft", .finetunes = true, .lr = 1e-5, .epochs = 2},
    [TASK_DPO] = {.name = "dpo", .finetunes = true, .needs_policy = true, .lr = 1e-5, .epochs = 1},
    [TASK_REWARD] = {.name = "reward", .finetunes = true, .no_texts = true, .lr = 1e-5, .epochs = 1},
};

// Options that belong to some tasks only.
enum { SFT = 1 << TASK_SFT, DPO = 1 << TASK_DPO, REWARD = 1 << TASK_REWARD };
static const struct {
    const char *option;
    int tasks;
    const char *expected; // the same in words
} limited[] = {
    {"dpo-loss", DPO, "dpo"},
    {"dpo-beta", DPO, "dpo"},
    {"dpo-nll", DPO, "dpo"},
    {"dpo-nll-sum", DPO, "dpo"},
    {"reference-only", DPO, "dpo"},
    {"label-smoothing", DPO | REWARD, "dpo or reward"},
    {"skip-long", SFT | DPO | REWARD, "sft, dpo or reward"},
};

const char *options_task_name(const Options *options) { return tasks[options->task].name; }

static int check_limited(const Options *options, Error *err) {
    for (size_t i = 0; i < sizeof limited / sizeof *limited; i++)
        if (!(limited[i].tasks >> options->task & 1) && options_given(options, limited[i].option))
            return fail_input(err, "--%s: expected --task %s, found --task %s", limited[i].option, limited[i].expected,
                              options_task_name(options));
    if (options->dpo_loss == DPO_IPO && options->label_smoothing > 0)
        return fail_input(err, "--label-smoothing %g: expected --dpo-loss sigmoid, found ipo",
                          options->label_smoothing);
    return 0;
}

int options_check_task_texts(const Options *options, Error *err) {
    if (!tasks[options->task].no_texts || (!options->eval_tasks && !options->sample_every)) return 0;
    return fail_input(err, "--%s: a reward model writes and scores no texts, expected --task pretrain, sft or dpo",
                      options->eval_tasks ? "eval-tasks" : "sample-every");
}

int options_check_task_evaluates(const Options *options, Error *err) {
    if (!tasks[options->task].needs_policy) return 0;
    return fail_input(err, "--eval-only: expected --task pretrain, sft or reward, found --task %s",
                      options_task_name(options));
}

static int check_finetuning(const Options *options, Error *err) {
    if (options->config)
        return fail_input(err, "--config '%s': --task %s begins with a model, expected --init-from DIR",
                          options->config, options_task_name(options));
    if (!options->document_mask)
        return fail_input(err, "--document-mask off: expected --task pretrain, found --task %s",
                          options_task_name(options));
    return options_check_task_texts(options, err);
}

int options_settle_task(Options *options, Error *err) {
    int code = check_limited(options, err);
    if (!code && tasks[options->task].finetunes) code = check_finetuning(options, err);
    if (code) return code;
    if (options_given(options, "steps") && options->epochs > 0)
        return fail_input(err, "--steps and --epochs exclude each other: expected one of them");
    if (!tasks[options->task].finetunes) return 0;
    if (!options_given(options, "lr")) options->lr = tasks[options->task].lr;
    if (!options_given(options, "steps") && options->epochs == 0) options->epochs = tasks[options->task].epochs;
    return 0;
}
