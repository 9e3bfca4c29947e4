#include "train/base_model.h"

#include <inttypes.h>
#include <stdlib.h>

#include "checkpoint/checkpoint.h"
#include "model/llama3_weights.h"

int base_model_find(RunIdentity *identity, const Options *options, const Resume *resume, Error *err) {
    const char *recorded = resume->folder[0] ? resume_text(resume, "base_model") : "";
    const char *folder = options->init_from ? options->init_from : recorded;
    if (!options->lora_rank && resume->folder[0] && resume->options.lora_rank)
        return fail_input(err, "--resume: %.200s holds adapters, expected --lora-rank %lld", resume->folder,
                          (long long)resume->options.lora_rank);
    if (!options->lora_rank) return 0;
    if (!folder[0])
        return fail_input(err, "--lora-rank %lld: expected --init-from DIR, the model that the adapters adapt",
                          (long long)options->lora_rank);
    if (realpath(folder, identity->base_model)) return 0;
    return fail_input(err, "%s: no such folder, expected the model that the adapters adapt%s", folder,
                      options->init_from ? "" : "; --init-from says where it is now");
}

// *sum = a fingerprint of the frozen weights. Errors: 1.
static int fingerprint(uint64_t *sum, Llama3 *model, Error *err) {
    const ParameterTable *table = llama3_parameters(model);
    uint64_t *checksums = calloc((size_t)table->count, sizeof *checksums);
    if (!checksums) return fail_fault(err, "out of memory");
    llama3_checksums(model, checksums);
    *sum = 0;
    for (int i = 0; i < table->count; i++)
        if (!table->tensors[i].trained) *sum += checksums[i] * (2 * (uint64_t)i + 1);
    free(checksums);
    return 0;
}

static int read_base(RunIdentity *identity, Llama3 *model, bool new_head, uint64_t seed, Error *err) {
    int code = new_head ? checkpoint_read_language_model(identity->base_model, model, seed, err)
                        : checkpoint_read_weights(identity->base_model, model, err);
    if (code) return code;
    llama3_init_adapters(model, seed);
    return fingerprint(&identity->base_fingerprint, model, err);
}

int base_model_load(RunIdentity *identity, Llama3 *model, bool new_head, const Options *options, const Resume *resume,
                    Error *err) {
    uint64_t recorded = 0;
    int code = read_base(identity, model, new_head, (uint64_t)options->seed, err);
    if (code || !resume->folder[0]) return code;
    code = resume_fingerprint(resume, "base_fingerprint", &recorded, err);
    if (!code && recorded != identity->base_fingerprint)
        code = fail_input(err,
                          "%s: its weights are not those that %.200s was trained on: fingerprint %016" PRIx64
                          ", expected %016" PRIx64,
                          identity->base_model, resume->folder, identity->base_fingerprint, recorded);
    return code ? code : checkpoint_read_training(resume->folder, model, err);
}
