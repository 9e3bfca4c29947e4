// What finetuning has that pretraining lacks: rows of conversations or comparisons, a loss of preference, and the reference
// model's log-probabilities.
#include "train/trainer_internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/path.h"
#include "ranks/watchdog.h"
#include "train/ref_logprobs.h"

bool trainer_compares(const Options *o) { return o->task == TASK_DPO || o->task == TASK_REWARD; }

LoaderKind trainer_loader_kind(const Options *o) {
    if (o->task == TASK_PRETRAIN) return LOADER_DOCUMENTS;
    return trainer_compares(o) ? LOADER_COMPARISONS : LOADER_CONVERSATIONS;
}

PreferenceLoss trainer_preference_loss(const Options *o) {
    if (o->task == TASK_REWARD)
        return (PreferenceLoss){
            .kind = PREFERENCE_REWARD, .beta = 1, .label_smoothing = (float)o->label_smoothing, .nll = 0};
    return (PreferenceLoss){.kind = o->dpo_loss == DPO_IPO ? PREFERENCE_IPO : PREFERENCE_DPO,
                            .beta = (float)o->dpo_beta,
                            .label_smoothing = (float)o->label_smoothing,
                            .nll = (float)o->dpo_nll,
                            .nll_summed = o->dpo_nll_sum};
}

int trainer_take_config(LlamaConfig *config, bool *new_head, const Options *o, const char *path, Error *err) {
    int code = llama_config_read(config, path, err);
    *new_head = !code && o->task == TASK_REWARD && config->num_labels == 0;
    if (*new_head) config->num_labels = 1;
    if (code || o->task == TASK_REWARD) return code;
    return llama_config_demand_language_model(config, path, err);
}

LogPreference trainer_preference(const Options *o, const double sums[PREFERENCE_SUMS], double pairs) {
    return (LogPreference){.accuracy = sums[PREFERENCE_CORRECT] / pairs,
                           .reward_chosen = sums[PREFERENCE_CHOSEN] / pairs,
                           .reward_rejected = sums[PREFERENCE_REJECTED] / pairs,
                           .nll = o->task == TASK_DPO ? sums[PREFERENCE_NLL] / pairs : NAN};
}

void trainer_tell_skipped(const Loader *loader, const char *option, int T) {
    const uint64_t skipped = loader_num_skipped(loader);
    char first[LOADER_SKIPPED_SIZE];
    if (!skipped) return;
    loader_describe_skipped(loader, first, sizeof first);
    printf("skipped   %" PRIu64 " of the rows of %s, longer than --seq-len %d (--skip-long), the first: %s\n", skipped,
           option, T, first);
}

// ---- log-probabilities of the reference model

// A set's: where they are looked for and kept, and how to compute them.
typedef struct {
    const char *what;  // for people
    const char *shard; // a file of the set
    Loader *loader;
    ReferenceKey key;
    float *values; // [key.answers]
} ReferenceSet;

static int folder_of(char folder[PATH_MAX], const char *file, Error *err) {
    const char *slash = strrchr(file, '/');
    if (!slash) return path_join(folder, ".", "", err);
    const int length = snprintf(folder, PATH_MAX, "%.*s/", (int)(slash - file), file);
    return length < PATH_MAX ? 0 : fail_input(err, "%.200s...: path too long", file);
}

// Beside the data, or in the run's folder.
static int look_for(const Trainer *t, const ReferenceSet *set, bool *found, Error *err) {
    char folder[PATH_MAX];
    int code = folder_of(folder, set->shard, err);
    if (!code) code = reference_read(set->values, found, folder, &set->key, err);
    if (!code && !*found) code = reference_read(set->values, found, t->run.options.output, &set->key, err);
    return code;
}

// Rank 0's, for all.
static int find(Trainer *t, const ReferenceSet *set, bool *found, Error *err) {
    int32_t here = 0;
    *found = false;
    int code = team_leads(&t->run.team) ? look_for(t, set, found, err) : 0;
    here = *found;
    code = team_follow(&t->run.team, code, err);
    if (code || t->run.team.size == 1) return code;
    comm_host_broadcast(t->run.team.comm, &here, sizeof here, 0);
    *found = here;
    if (here) comm_host_broadcast(t->run.team.comm, set->values, (size_t)set->key.answers * sizeof *set->values, 0);
    return 0;
}

static int keep(const Trainer *t, const ReferenceSet *set, Error *err) {
    char folder[PATH_MAX];
    int code = folder_of(folder, set->shard, err);
    if (!code) code = reference_write(set->values, folder, &set->key, err);
    if (code != ERROR_INPUT) return code;
    return reference_write(set->values, t->run.options.output, &set->key, err); // data that cannot be written to
}

static int fail_missing(const ReferenceSet *set, Error *err) {
    char folder[PATH_MAX], name[REFERENCE_NAME_SIZE];
    reference_name(name, &set->key);
    int code = folder_of(folder, set->shard, err);
    if (code) return code;
    return fail_input(err,
                      "%s%s: missing, the %s answers' log-probabilities under the model that this run began with, of "
                      "--batch-size %d; --reference-only --init-from that model makes them again",
                      folder, name, set->what, set->key.B);
}

static int compute(Trainer *t, const ReferenceSet *set, Error *err) {
    bool stopped;
    progress_print(&t->run.progress, "reference log-probabilities of %" PRIu64 " %s answers; nothing is trained yet",
                   set->key.answers, set->what);
    int code =
        reference_compute(set->values, &stopped, t->model, set->loader, &set->key, &t->run.team, &t->run.progress, err);
    if (code) return code;
    if (stopped) { // the run ends before its first step
        progress_print(&t->run.progress,
                       "stopped before all were computed: none is kept, the same command begins again");
        return 0;
    }
    return team_follow(&t->run.team, team_leads(&t->run.team) ? keep(t, set, err) : 0, err);
}

static int prepare_set(Trainer *t, ReferenceSet *set, float **values, Error *err) {
    bool found;
    set->key.model = t->state.identity.reference_model;
    set->key.answers = loader_num_answers(set->loader);
    set->key.data = loader_fingerprint(set->loader);
    set->key.B = (int)t->run.options.batch_size;
    set->key.T = (int)t->run.options.seq_len;
    set->values = *values = malloc((size_t)set->key.answers * sizeof **values + 1);
    int code =
        *values ? 0 : fail_fault(err, "no memory for the log-probabilities of %" PRIu64 " answers", set->key.answers);
    code = team_agree(&t->run.team, code, err);
    if (!code) code = find(t, set, &found, err);
    if (code || found) return code;
    return t->resume.folder[0] ? fail_missing(set, err) : compute(t, set, err);
}

// The training set's packs in the order of their making, each once.
static int open_packs(const Trainer *t, Loader **loader, Error *err) {
    LoaderSpec spec = trainer_loader_spec(t);
    spec.rank = 0;
    spec.world = spec.grad_accum = 1;
    spec.shuffle = false;
    spec.once = true;
    return loader_open(loader, t->run.options.train_data, &spec, t->run.config.vocab_size,
                       tokenizer_sha256(t->data.tokenizer), err);
}

static int prepare_training_set(Trainer *t, Error *err) {
    ReferenceSet set = {.what = "training", .shard = t->data.train_shard, .key.seed = (uint64_t)t->run.options.seed};
    int code = team_agree(&t->run.team, open_packs(t, &set.loader, err), err);
    if (!code) code = prepare_set(t, &set, &t->task.ref_logprobs, err);
    loader_close(set.loader);
    return code;
}

bool trainer_prepares_only(const Trainer *t) { return t->run.options.reference_only; }

int trainer_prepare_reference(Trainer *t, Error *err) {
    ReferenceSet val = {.what = "validation", .shard = t->data.val_shard, .loader = t->data.val};
    if (t->run.options.task != TASK_DPO) return 0;
    watchdog_phase("reference log-probabilities");
    const char *target = strncmp(t->state.identity.device, "CPU", 3) == 0 ? "cpu" : "cuda";
    int code = t->resume.folder[0] ? 0 : reference_model(&t->state.identity.reference_model, t->model, target, err);
    code = team_agree(&t->run.team, code, err);
    if (!code) code = prepare_training_set(t, err);
    if (!code && t->data.val) code = prepare_set(t, &val, &t->task.val_ref_logprobs, err);
    return code;
}
