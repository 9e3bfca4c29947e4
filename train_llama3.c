// Trains a Llama 3 language model: see train_llama3 --help.
#include <stdio.h>

#include "train/options.h"
#include "train/process.h"
#include "train/trainer.h"

static int train(const Options *options, Error *err) {
    Trainer *t = NULL;
    int code = trainer_open(&t, options, err); // configuration, shards, tokenizer, output folder, memory
    if (!code) code = trainer_load(t, err);    // weights: drawn from the seed, or read from --init-from
    if (!code) code = trainer_begin(t, err);   // the output folder becomes this run's
    while (!code && !trainer_done(t)) {
        code = trainer_step(t, err);               // tokens -> loss -> gradients -> clip -> AdamW
        if (!code) code = trainer_observe(t, err); // log, progress line, validation loss, sample
    }
    if (!code) code = trainer_save(t, err); // a directory that transformers opens
    trainer_close(t);
    return code;
}

int main(int argc, char **argv) {
    Options options;
    Error err = {0};
    process_prepare();
    int code = options_parse(&options, argc, argv, &err);
    if (!code && !options.help) code = train(&options, &err);
    if (code) fprintf(stderr, "train_llama3: %s\n", err.message);
    return code;
}
