#include "train/agree.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sha256.h"
#include "base/text.h"
#include "base/version.h"
#include "model/llama3_weights.h"

// ---- what has to be the same on all ranks

static void add_option(void *fields, const char *name, const char *value) {
    char option[TEAM_NAME_SIZE];
    snprintf(option, sizeof option, "--%s", name);
    team_add(fields, option, value);
}

int agree_on_options(const Team *team, const Options *options, Error *err) {
    TeamFields program = {.count = 0}, *fields = calloc(1, sizeof *fields);
    int code = fields ? 0 : fail_fault(err, "out of memory");
    if (fields) options_visit_shared(options, add_option, fields);
    code = team_agree(team, code, err);
    team_add(&program, "version", LLMC_VERSION); // first, so that options of two versions are never compared
    team_add(&program, "precision", version_precision());
    if (!code) code = team_compare(team, &program, err);
    if (!code) code = team_compare(team, fields, err);
    free(fields);
    return code;
}

static void add_recipe(TeamFields *fields, const Recipe *recipe) {
    uint8_t digest[SHA256_BYTES];
    char text[2 * SHA256_BYTES + 1] = "none";
    Sha256 sha;
    if (recipe) {
        sha256_begin(&sha);
        sha256_add(&sha, recipe->text, strlen(recipe->text));
        sha256_end(&sha, digest);
        text_hex(text, digest, SHA256_BYTES);
    }
    team_add(fields, "--recipe: SHA-256", text);
}

int agree_on_data(const Run *run, const TrainData *data, const TrainState *state, Error *err) {
    char fingerprint[TEXT_FINGERPRINT_SIZE], sha[2 * SHA256_BYTES + 1], step[24];
    TeamFields fields = {.count = 0};
    add_recipe(&fields, state->place.recipe);
    text_fingerprint(fingerprint, train_data_fingerprint(data));
    team_add(&fields, "--train-data: fingerprint", fingerprint);
    text_fingerprint(fingerprint, train_data_val_fingerprint(data));
    team_add(&fields, "--val-data: fingerprint", fingerprint);
    text_hex(sha, tokenizer_sha256(data->tokenizer), SHA256_BYTES);
    team_add(&fields, "tokenizer: SHA-256", sha);
    snprintf(step, sizeof step, "%lld", (long long)state->step);
    team_add(&fields, "--resume: the checkpoint's step", step);
    int code = team_compare_config(&run->team, &run->config, err);
    return code ? code : team_compare(&run->team, &fields, err);
}

static const char *tensor_name(const void *table, int index) {
    return ((const ParameterTable *)table)->tensors[index].name;
}

int agree_on_weights(const Team *team, Llama3 *model, uint64_t *checksums, const char *when, Error *err) {
    const ParameterTable *table = llama3_parameters(model);
    if (team->size == 1) return 0;
    llama3_checksums(model, checksums);
    const TeamSums sums = {checksums, checksums + table->count, table->count, when, tensor_name, table};
    return team_compare_sums(team, &sums, err);
}

// ---- the checkpoint that is resumed

typedef struct {
    char folder[PATH_MAX];
    bool own, chosen;
} Choice;

int agree_on_resume(const Team *team, Resume *r, Error *err) {
    Choice choice = {.own = r->own, .chosen = r->chosen};
    if (team->size == 1) return 0;
    memcpy(choice.folder, r->folder, sizeof choice.folder);
    comm_host_broadcast(team->comm, &choice, sizeof choice, 0);
    return team_leads(team) ? 0 : resume_follow(r, choice.folder, choice.own, choice.chosen, err);
}

// ---- at each step

// Each rank contributes these numbers; from their sums all ranks know the state of the others.
enum {
    STEP_TARGETS,
    STEP_FAILURES,
    STEP_WRITING,
    STEP_NOT_WRITTEN,
    STEP_SIGNALS,
    STEP_NUMBERS = STEP_SIGNALS + RUN_SIGNALS
};

int agree_on_step(Run *run, Saver *saver, int code, int64_t *num_targets, Error *err) {
    int64_t sums[STEP_NUMBERS] = {[STEP_TARGETS] = *num_targets, [STEP_FAILURES] = code != 0};
    if (run->team.size == 1) return code;
    saver_send_parts(saver, &sums[STEP_WRITING], &sums[STEP_NOT_WRITTEN]);
    run_send_signals(sums + STEP_SIGNALS);
    comm_host_sum(run->team.comm, sums, STEP_NUMBERS);
    run_receive_signals(run, sums + STEP_SIGNALS);
    *num_targets = sums[STEP_TARGETS];
    if (sums[STEP_FAILURES]) return team_agree(&run->team, code, err);
    saver_receive_parts(saver, sums[STEP_WRITING], sums[STEP_NOT_WRITTEN]);
    return 0;
}
