// Trains a Llama 3 language model: see train_llama3 --help.
#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

#include "checkpoint/find_model.h"
#include "train/eval_only.h"
#include "options/options.h"
#include "run/process.h"
#include "ranks/team.h"
#include "train/setup.h"

static int train(Trainer *t, Error *err) {
    int code = trainer_load(t, err); // weights: drawn, or read from --init-from or the checkpoint to resume
    if (trainer_prepares_only(t)) return code;
    if (!code) code = trainer_begin(t, err);   // the output folder becomes this run's
    if (!code) code = trainer_make_up(t, err); // evaluations that a signal to stop left out
    while (!code && !trainer_done(t)) {
        code = trainer_step(t, err);               // tokens -> loss -> gradients -> clip -> AdamW
        if (!code) code = trainer_observe(t, err); // log, progress line, validation loss, sample, checkpoint
    }
    return code ? code : trainer_save(t, err); // a directory that transformers opens
}

static int run(const Options *options, const Team *team, Error *err) {
    Trainer *t = NULL;
    if (options->eval_only) return eval_only(options, team, err);
    int code = trainer_open(&t, options, team, err); // output folder, checkpoint, configuration, shards, model
    if (!code && !trainer_was_done(t)) code = train(t, err);
    trainer_close(t);
    return code;
}

// A folder stands for what is meant in it. A run that goes on may have no need any more of what it began from.
static int find_inputs(Options *options, Error *err) {
    const bool needed =
        options->init_from && (options_resume(options) == RESUME_NEVER || access(options->init_from, F_OK) == 0);
    int code = needed ? find_whole_model(&options->init_from, err) : 0;
    if (!code && options->config) code = find_file(&options->config, "config.json", err);
    if (!code && options->tokenizer) code = find_file(&options->tokenizer, "tokenizer.json", err);
    return code;
}

// An empty message: another rank tells.
static int report(int code, const Error *err) {
    if (code && err->message[0]) error_print("%s", err->message);
    return code;
}

// Bad input is refused on all ranks, and the first to exit ends the others: they end together, once it was printed. A
// fault is one rank's own, for which the others would wait.
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
    if (!team_leads(&team)) process_silence(); // rank 0 speaks for all
    code = team_agree(&team, code, &err);
    if (!code) code = trainer_compare_options(&team, &options, &err);
    if (!code) code = run(&options, &team, &err);
    if (team_leads(&team)) report(code, &err);
    team_close(&team);
    return code;
}
