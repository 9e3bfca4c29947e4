// trainer/state.json: what a run has to know of itself besides weights and moments, written and taken back.
#include "train/trainer_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/sha256.h"
#include "base/text.h"
#include "base/version.h"
#include "checkpoint/checkpoint.h"

const char *state_precision(void) { return sizeof(floatX) == 4 ? "fp32" : "bf16"; }

void state_fingerprint(char text[17], uint64_t fingerprint) { snprintf(text, 17, "%016" PRIx64, fingerprint); }

static void add_identity(cJSON *root, const Trainer *t) {
    char fingerprint[17], sha[65];
    state_fingerprint(fingerprint, loader_fingerprint(t->data.train));
    text_hex(sha, tokenizer_sha256(t->data.tokenizer), SHA256_BYTES);
    cJSON_AddStringToObject(root, "precision", state_precision());
    cJSON_AddStringToObject(root, "train_data", fingerprint);
    cJSON_AddStringToObject(root, "tokenizer_sha256", sha);
    state_fingerprint(fingerprint, t->state.identity.reference_model);
    if (t->run.options.task == TASK_DPO) cJSON_AddStringToObject(root, "reference_model", fingerprint);
    state_fingerprint(fingerprint, t->state.identity.base_fingerprint);
    if (t->run.options.lora_rank) {
        cJSON_AddStringToObject(root, "base_model", t->state.identity.base_model);
        cJSON_AddStringToObject(root, "base_fingerprint", fingerprint);
    }
    cJSON_AddStringToObject(root, "device", t->state.identity.device);
    cJSON_AddNumberToObject(root, "threads", t->state.identity.threads);
    cJSON_AddNumberToObject(root, "world_size", t->run.team.size);
    cJSON_AddItemToObject(root, "options", options_to_json(&t->run.options));
}

static void add_spikes(cJSON *root, const SpikeStats *stats) {
    cJSON *spikes = cJSON_AddObjectToObject(root, "spikes");
    cJSON_AddNumberToObject(spikes, "count", (double)stats->count);
    cJSON_AddNumberToObject(spikes, "mean", stats->mean); // cJSON prints the digits that give the same double again
    cJSON_AddNumberToObject(spikes, "variance", stats->variance);
}

char *trainer_state_text(const Trainer *t) {
    cJSON *root = cJSON_CreateObject();
    cJSON_AddNumberToObject(root, "format_version", CHECKPOINT_FORMAT_VERSION);
    cJSON_AddStringToObject(root, "program_version", LLMC_VERSION);
    cJSON_AddNumberToObject(root, "step", (double)t->state.step);
    cJSON_AddNumberToObject(root, "skipped_steps", (double)t->state.skipped_steps);
    cJSON_AddNumberToObject(root, "data_offset", (double)t->state.data_offset);
    cJSON_AddNumberToObject(root, "tokens", (double)trainer_tokens(t));
    if (t->run.options.average_from) cJSON_AddNumberToObject(root, "average_samples", (double)t->state.average_samples);
    if (t->state.due) cJSON_AddNumberToObject(root, "owed", t->state.due);
    add_spikes(root, &t->state.spikes);
    add_identity(root, t);
    char *text = json_print(root, true);
    cJSON_Delete(root);
    return text;
}

int64_t trainer_tokens(const Trainer *t) {
    return t->state.step * t->run.options.tokens_per_step + t->state.token_offset;
}

// With steps of another size the data go on where they were: at the first step that has none of the tokens
// read.
static void keep_position(Trainer *t, int64_t old_step_tokens) {
    const int64_t new_step_tokens = t->run.options.tokens_per_step, position = t->state.step + t->state.data_offset;
    if (old_step_tokens == new_step_tokens) return;
    const double read = (double)position * (double)old_step_tokens;
    int64_t next = (int64_t)(read / (double)new_step_tokens);
    while ((double)next * (double)new_step_tokens < read) next++;
    t->state.data_offset = next - t->state.step;
}

int trainer_take_average(Trainer *t, const Resume *resume, Error *err) {
    t->state.average_samples = 0;
    if (!t->run.options.average_from || !json_get(resume->state, "average_samples")) return 0;
    return resume_integer(resume, "average_samples", 0, &t->state.average_samples, err);
}

// Of what was due after the step and left out: what this run's options ask for, too.
static int take_owed(Trainer *t, const Resume *resume, Error *err) {
    int64_t owed = 0;
    int code = cJSON_HasObjectItem(resume->state, "owed") ? resume_integer(resume, "owed", 0, &owed, err) : 0;
    t->state.due = (int)(owed & trainer_observations(t));
    return code;
}

int trainer_take_state(Trainer *t, Error *err) {
    const Resume *resume = &t->resume;
    int64_t tokens = 0;
    t->state.step = t->saver.first_step = t->saver.saved_step = resume->step;
    int code = resume_integer(resume, "skipped_steps", 0, &t->state.skipped_steps, err);
    if (!code) code = resume_integer(resume, "data_offset", -t->state.step, &t->state.data_offset, err);
    if (!code) code = resume_integer(resume, "tokens", 0, &tokens, err);
    if (!code) code = resume_spikes(resume, &t->state.spikes, err);
    if (!code && t->run.options.task == TASK_DPO)
        code = resume_fingerprint(resume, "reference_model", &t->state.identity.reference_model, err);
    if (!code) code = trainer_take_average(t, resume, err);
    if (!code) code = take_owed(t, resume, err);
    t->state.token_offset = tokens - t->state.step * t->run.options.tokens_per_step;
    keep_position(t, resume->options.tokens_per_step);
    return code;
}

static void note_ranks(const Trainer *t) {
    char was[64], is[64];
    trainer_describe_ranks(was, sizeof was, &t->resume.options, resume_step_before(&t->resume).ranks);
    trainer_describe_ranks(is, sizeof is, &t->run.options, t->run.team.size);
    if (strcmp(was, is) != 0)
        printf("resume    it was written by %s, this run is of %s: rounding may differ\n", was, is);
}

static void note_machine(const Trainer *t) {
    int64_t threads = 0;
    const char *device = resume_text(&t->resume, "device");
    if (resume_integer(&t->resume, "threads", 1, &threads, NULL)) return;
    if (strcmp(device, t->state.identity.device) == 0 && threads == t->state.identity.threads) return;
    printf("resume    it was written on %s with %lld thread%s, this is %s with %d: rounding may differ\n", device,
           (long long)threads, threads == 1 ? "" : "s", t->state.identity.device, t->state.identity.threads);
}

void trainer_print_resume(const Trainer *t) {
    if (!t->resume.folder[0]) return;
    printf("resume    after step %lld, from %s (version %s)\n", (long long)t->state.step, t->resume.folder,
           resume_text(&t->resume, "program_version"));
    note_ranks(t);
    note_machine(t);
}
