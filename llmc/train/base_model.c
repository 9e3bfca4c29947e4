// What training adapters adds: the model that they adapt is read at each start and never written; a checkpoint names it, and
// knows its weights by their checksum.
#include "model/llama3_weights.h"
#include "train/trainer_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/checkpoint.h"

const char *trainer_model_folder(const Trainer *t) {
    if (t->run.options.lora_rank) return t->state.identity.base_model;
    return t->resume.folder[0] ? t->resume.folder : t->run.options.init_from;
}

int trainer_find_base(Trainer *t, Error *err) {
    const char *recorded = t->resume.folder[0] ? resume_text(&t->resume, "base_model") : "";
    const char *folder = t->run.options.init_from ? t->run.options.init_from : recorded;
    if (!t->run.options.lora_rank && t->resume.folder[0] && t->resume.options.lora_rank)
        return fail_input(err, "--resume: %.200s holds adapters, expected --lora-rank %lld", t->resume.folder,
                          (long long)t->resume.options.lora_rank);
    if (!t->run.options.lora_rank) return 0;
    if (!folder[0])
        return fail_input(err, "--lora-rank %lld: expected --init-from DIR, the model that the adapters adapt",
                          (long long)t->run.options.lora_rank);
    if (realpath(folder, t->state.identity.base_model)) return 0;
    return fail_input(err, "%s: no such folder, expected the model that the adapters adapt%s", folder,
                      t->run.options.init_from ? "" : "; --init-from says where it is now");
}

// Of what is frozen.
static uint64_t fingerprint_base(Trainer *t) {
    const ParameterTable *table = llama3_parameters(t->model);
    uint64_t sum = 0;
    llama3_checksums(t->model, t->guard.checksums);
    for (int i = 0; i < table->count; i++)
        if (!table->tensors[i].trained) sum += t->guard.checksums[i] * (2 * (uint64_t)i + 1);
    return sum;
}

static int read_base(Trainer *t, Error *err) {
    const uint64_t seed = (uint64_t)t->run.options.seed;
    int code = t->task.new_head ? checkpoint_read_language_model(t->state.identity.base_model, t->model, seed, err)
                                : checkpoint_read_weights(t->state.identity.base_model, t->model, err);
    if (code) return code;
    llama3_init_adapters(t->model, seed);
    t->state.identity.base_fingerprint = fingerprint_base(t);
    return 0;
}

int trainer_load_adapters(Trainer *t, Error *err) {
    uint64_t recorded = 0;
    int code = read_base(t, err);
    if (code || !t->resume.folder[0]) return code;
    code = resume_fingerprint(&t->resume, "base_fingerprint", &recorded, err);
    if (!code && recorded != t->state.identity.base_fingerprint)
        code = fail_input(err,
                          "%s: its weights are not those that %.200s was trained on: fingerprint %016" PRIx64
                          ", expected %016" PRIx64,
                          t->state.identity.base_model, t->resume.folder, t->state.identity.base_fingerprint, recorded);
    return code ? code : checkpoint_read_training(t->resume.folder, t->model, err);
}
