// The options of train_llama3. One table describes them: the parser, --help, the bounds check and the copy
// that a run keeps of its options (trainer_options.json) are all made from it.
#ifndef LLMC_TRAIN_OPTIONS_H
#define LLMC_TRAIN_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

// Texts point into argv, or are NULL where an option was not given. Choices are indices into the table's
// list.
typedef struct {
    const char *config, *init_from, *train_data, *val_data, *tokenizer, *output;
    bool overwrite;
    int64_t steps, batch_size, seq_len, grad_accum, tokens_per_step;
    double lr, final_lr_fraction, weight_decay, beta1, beta2, eps, grad_clip;
    int64_t warmup_steps;
    int64_t eval_every, eval_batches, sample_every, sample_tokens, log_every;
    double temperature;
    int64_t seed;
    int64_t recompute; // RECOMPUTE_*
    bool document_mask, save;
    int64_t threads;    // 0: as OpenMP decides
    double peak_tflops; // 0: by the device's name
    bool help;          // --help was given and printed; nothing else was checked
    uint64_t given;     // bit i: row i of the table came from the command line
} Options;

enum { RECOMPUTE_NONE, RECOMPUTE_BLOCK };

// *options = the table's defaults, then the command line, then what follows from the two (tokens_per_step,
// grad_accum, warmup_steps). Every bound, and every condition between options, holds afterwards. Errors: 2,
// naming the option, the value found and what was expected.
int options_parse(Options *options, int argc, char **argv, Error *err);

// Writes all options, by their names in the table, as a JSON object to path. Errors: 1.
int options_save(const Options *options, const char *path, Error *err);

#ifdef __cplusplus
}
#endif
#endif
