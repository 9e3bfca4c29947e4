// Trains a Llama 3 language model: see train_llama3 --help.
#include <stdio.h>

#include "train/eval_only.h"
#include "train/options.h"
#include "train/process.h"
#include "train/trainer.h"

static int train(Trainer *t, Error *err) {
    int code = trainer_load(t, err);         // weights: drawn, or read from --init-from or the checkpoint to resume
    if (!code) code = trainer_begin(t, err); // the output folder becomes this run's
    while (!code && !trainer_done(t)) {
        code = trainer_step(t, err);               // tokens -> loss -> gradients -> clip -> AdamW
        if (!code) code = trainer_observe(t, err); // log, progress line, validation loss, sample, checkpoint
    }
    return code ? code : trainer_save(t, err); // a directory that transformers opens
}

static int report(int code, const Error *err) {
    if (code) fprintf(stderr, "train_llama3: %s\n", err->message);
    return code;
}

int main(int argc, char **argv) {
    Options options;
    Trainer *t = NULL;
    Error err = {0};
    process_prepare();
    int code = options_parse(&options, argc, argv, &err);
    if (code || options.help) return report(code, &err);
    if (options.eval_only) return report(eval_only(&options, &err), &err);
    code = trainer_open(&t, &options, &err); // output folder, checkpoint, configuration, shards, tokenizer, memory
    if (!code && !trainer_was_done(t)) code = train(t, &err);
    trainer_close(t);
    return report(code, &err);
}
