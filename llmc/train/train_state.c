#include "train/train_state.h"

#include "base/json.h"
#include "base/sha256.h"
#include "base/text.h"
#include "base/version.h"
#include "checkpoint/checkpoint.h"
#include "run/log.h"

int train_state_observations(const Options *o) {
    return ((o->val_data || o->recipe) && o->eval_every ? LOG_EVALUATION : 0) | (o->eval_tasks ? LOG_TASK : 0) |
           (o->sample_every ? LOG_SAMPLE : 0);
}

// ---- written

static void add_fingerprint(cJSON *root, const char *name, uint64_t fingerprint) {
    char text[TEXT_FINGERPRINT_SIZE];
    text_fingerprint(text, fingerprint);
    cJSON_AddStringToObject(root, name, text);
}

static void add_identity(cJSON *root, const RunIdentity *identity, const Options *options) {
    char sha[2 * SHA256_BYTES + 1];
    text_hex(sha, identity->tokenizer_sha256, SHA256_BYTES);
    cJSON_AddStringToObject(root, "precision", version_precision());
    add_fingerprint(root, "train_data", identity->train_data);
    cJSON_AddStringToObject(root, "tokenizer_sha256", sha);
    if (identity->reference_model) add_fingerprint(root, "reference_model", identity->reference_model);
    if (options->lora_rank) {
        cJSON_AddStringToObject(root, "base_model", identity->base_model);
        add_fingerprint(root, "base_fingerprint", identity->base_fingerprint);
    }
    cJSON_AddStringToObject(root, "device", identity->device);
    cJSON_AddNumberToObject(root, "threads", identity->threads);
    cJSON_AddNumberToObject(root, "world_size", identity->ranks);
    cJSON_AddItemToObject(root, "options", options_to_json(options));
}

static void add_spikes(cJSON *root, const SpikeStats *stats) {
    cJSON *spikes = cJSON_AddObjectToObject(root, "spikes");
    cJSON_AddNumberToObject(spikes, "count", (double)stats->count);
    cJSON_AddNumberToObject(spikes, "mean", stats->mean); // cJSON prints the digits that give the same double again
    cJSON_AddNumberToObject(spikes, "variance", stats->variance);
}

char *train_state_text(const TrainState *state, const Options *options) {
    cJSON *root = cJSON_CreateObject();
    cJSON_AddNumberToObject(root, "format_version", CHECKPOINT_FORMAT_VERSION);
    cJSON_AddStringToObject(root, "program_version", LLMC_VERSION);
    cJSON_AddNumberToObject(root, "step", (double)state->step);
    cJSON_AddNumberToObject(root, "skipped_steps", (double)state->skipped_steps);
    cJSON_AddNumberToObject(root, "data_offset", (double)state->data_offset);
    cJSON_AddNumberToObject(root, "tokens", (double)state->tokens);
    if (options->average_from) cJSON_AddNumberToObject(root, "average_samples", (double)state->average_samples);
    if (state->due) cJSON_AddNumberToObject(root, "owed", state->due); // the file format's name for it
    if (state->place.recipe) stage_place_add(root, &state->place);
    add_spikes(root, &state->spikes);
    add_identity(root, &state->identity, options);
    char *text = json_print(root, true);
    cJSON_Delete(root);
    return text;
}

// ---- taken back

// Steps of another size continue in the data where the old ones ended: at the first step without a token that was read.
static void keep_position(TrainState *state, int64_t old_step_tokens, int64_t new_step_tokens) {
    const int64_t position = state->step + state->data_offset;
    if (old_step_tokens == new_step_tokens) return;
    const double read = (double)position * (double)old_step_tokens;
    int64_t next = (int64_t)(read / (double)new_step_tokens);
    while ((double)next * (double)new_step_tokens < read) next++;
    state->data_offset = next - state->step;
}

// Takes how many samples the averaged weights have; 0 where the checkpoint does not say, or the run keeps no average.
static int take_average(TrainState *state, const Resume *from, const Options *options, Error *err) {
    state->average_samples = 0;
    if (!options->average_from || !json_get(from->state, "average_samples")) return 0;
    return resume_integer(from, "average_samples", 0, &state->average_samples, err);
}

static int take_due(TrainState *state, const Resume *from, const Options *options, Error *err) {
    int64_t due = 0;
    int code = cJSON_HasObjectItem(from->state, "owed") ? resume_integer(from, "owed", 0, &due, err) : 0;
    state->due = (int)(due & train_state_observations(options));
    return code;
}

int train_state_take_back(TrainState *state, const Resume *from, const Options *options, Error *err) {
    int code = resume_integer(from, "step", 0, &state->step, err);
    if (!code) code = resume_integer(from, "skipped_steps", 0, &state->skipped_steps, err);
    if (!code) code = resume_integer(from, "tokens", 0, &state->tokens, err);
    if (!code) code = resume_spikes(from, &state->spikes, err);
    return code ? code : take_average(state, from, options, err);
}

int train_state_take(TrainState *state, const Resume *resume, const Options *options, Error *err) {
    int code = train_state_take_back(state, resume, options, err);
    if (!code) code = resume_integer(resume, "data_offset", -state->step, &state->data_offset, err);
    if (!code) code = take_due(state, resume, options, err);
    keep_position(state, resume->options.tokens_per_step, options->tokens_per_step);
    return code;
}
