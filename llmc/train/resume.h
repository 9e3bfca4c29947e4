// Finds the checkpoint from which a run goes on, and checks that it is the same run: options, data, tokenizer, precision and
// model are compared with what the checkpoint's trainer/state.json and config.json say.
#ifndef LLMC_TRAIN_RESUME_H
#define LLMC_TRAIN_RESUME_H

#include <cjson/cJSON.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "model/config.h"
#include "options/options.h"
#include "recipe/recipe.h"
#include "recipe/spike.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    char folder[PATH_MAX]; // the checkpoint; "": a new run
    bool own;              // it lies in the output folder, whose log goes on
    bool chosen;           // --resume names it; else it was found as the newest whole one
    cJSON *state;          // trainer/state.json
    int64_t step;
    Options options;    // the checkpoint's; texts point into state
    cJSON *passed_over; // array of {"name", "reason"}: newer ones that are not whole; NULL: none
} Resume;

// Chooses a checkpoint as --resume says and reads its state; prints on stderr which newer checkpoints are not whole. Changes
// nothing. Errors: 2 (no folder, no checkpoint, none that is whole, an output folder with another run, newer checkpoints that
// would be in the way), 1.
int resume_find(Resume *resume, const Options *options, Error *err);

// Reads the checkpoint that rank 0 has chosen and verified. folder "": there is none. Errors: 2, 1.
int resume_follow(Resume *resume, const char *folder, bool own, bool chosen, Error *err);

void resume_free(Resume *resume);

// How many ranks and tokens a step the resumed run had; {0}: no run is resumed.
StepBefore resume_step_before(const Resume *resume);

// What a run computes with and from, besides its options. It is part of state.json.
typedef struct {
    uint64_t train_data;             // loader_fingerprint
    const uint8_t *tokenizer_sha256; // [SHA256_BYTES], owned by the tokenizer
    uint64_t reference_model;        // fingerprint of DPO's reference model; 0: there is none
    char base_model[PATH_MAX];       // of adapters: the folder of the model that they adapt; else ""
    uint64_t base_fingerprint;       // of its weights
    char device[128];
    int threads; // of the CPU target; else 1
    int ranks;
} RunIdentity;

// Refuses (2) a configuration, as --config gives it, that differs from the checkpoint's.
int resume_check_config(const Resume *resume, const char *path, const LlamaConfig *given, const LlamaConfig *kept,
                        Error *err);

// Refuses (2), in one line that names all of them, changed options, data, tokenizer, precision and members of the recipe (NULL:
// none); with --accept-changes they are printed instead.
int resume_check(const Resume *resume, const Options *options, const RunIdentity *identity, const Recipe *recipe,
                 Error *err);

// Prints from where the run goes on, and which changes of ranks or machine may change the rounding. Nothing for a new run.
void resume_print(const Resume *resume, const Options *options, const RunIdentity *identity);

// ---- members of state.json

// Errors: 2 (missing or not a whole number within the bounds).
int resume_integer(const Resume *resume, const char *name, int64_t min, int64_t *value, Error *err);
int resume_spikes(const Resume *resume, SpikeStats *stats, Error *err);
int resume_fingerprint(const Resume *resume, const char *name, uint64_t *value, Error *err); // 16 hexadecimal digits
const char *resume_text(const Resume *resume, const char *name);                             // "": missing

#ifdef __cplusplus
}
#endif
#endif
