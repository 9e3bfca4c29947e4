#include "train/ref_logprobs.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/path.h"
#include "base/version.h"
#include "model/llama3_inference.h"
#include "model/llama3_weights.h"
#include "ranks/watchdog.h"
#include "run/process.h"
#include "train/ref_logprobs_file.h"

enum { PIECE = 1 << 16 };

// A set of comparisons.
typedef struct {
    const char *what;  // for messages
    const char *shard; // a file of the set
    Loader *loader;
    RefLogprobsKey key;
    float *logprobs; // [key.answers]
} RefSet;

// ---- the model that they are of

static uint64_t first_digits(const Digest *digest) {
    char digits[17];
    snprintf(digits, sizeof digits, "%.16s", digest->text);
    return strtoull(digits, NULL, 16);
}

// *fingerprint = that of weights, configuration, precision, target ("cpu", "cuda") and program version. Waits for the device.
// Errors: 1.
static int fingerprint_model(uint64_t *fingerprint, Llama3 *m, const char *target, Error *err) {
    char *config = NULL, *text = NULL;
    int code = llama_config_print(llama3_config(m), "config.json", &config, err);
    if (code) return code;
    int length = asprintf(&text, "%s\n%s\n%s\n%s\n%016" PRIx64, config, LLMC_VERSION, target, version_precision(),
                          llama3_checksum(m));
    cJSON_free(config);
    if (length < 0) return fail_fault(err, "out of memory");
    const Digest digest = hash_bytes(text, (size_t)length);
    *fingerprint = first_digits(&digest);
    free(text);
    return 0;
}

// ---- computed

// Computes one micro-batch; `here` is scratch for its answers.
static int compute_one(float *logprobs, Llama3 *m, Loader *loader, int64_t i, float *here, Error *err) {
    Batch *batch = llama3_batch(m, 0);
    int code = loader_fetch(loader, i, 0, batch, err);
    if (code) return code;
    llama3_answer_values(m, 0, here);
    for (int a = 0; a < batch->num_answers; a++) {
        if (!isfinite(here[a]))
            return fail_fault(err, "answer %lld: its log-probability under the reference model is %f",
                              (long long)batch->answer_numbers[a], here[a]);
        logprobs[batch->answer_numbers[a]] = here[a];
    }
    return 0;
}

static void show(Progress *progress, int64_t done, int64_t all, int64_t tokens, double seconds) {
    const double a_batch = seconds / (double)done;
    const ProgressState state = {.what = "reference pass, batch",
                                 .step = done,
                                 .steps = all,
                                 .loss = NAN,
                                 .val_loss = NAN,
                                 .accuracy = NAN,
                                 .lr = NAN,
                                 .grad_norm = NAN,
                                 .tokens_per_second = (double)tokens / a_batch,
                                 .share_of_peak = NAN,
                                 .seconds_left = a_batch * (double)(all - done)};
    progress_show(progress, &state);
}

// Computes this rank's micro-batches: every size-th.
static int compute_share(const RefSet *set, Llama3 *m, Run *run, Error *err) {
    const int64_t all = (int64_t)loader_num_batches(set->loader), tokens = (int64_t)set->key.B * set->key.T;
    const int size = run->team.size;
    const double began = clock_seconds();
    float *here = malloc(((size_t)tokens / 2 + 1) * sizeof *here);
    int code = here ? 0 : fail_fault(err, "out of memory");
    for (int64_t i = run->team.rank; !code && i < all && !process_stop_requested(); i += size) {
        code = compute_one(set->logprobs, m, set->loader, i, here, err);
        const int64_t done = i + size < all ? i + 1 : all;
        if (!code) show(&run->progress, done, all, tokens, clock_seconds() - began);
    }
    free(here);
    progress_end(&run->progress);
    return code;
}

// Each value was computed by one rank; the others have 0 there. Their bits are summed as integers, so that none is rounded.
static void share_values(float *values, uint64_t count, Comm *comm) {
    static int64_t bits[PIECE];
    for (uint64_t first = 0; first < count; first += PIECE) {
        const int n = count - first < PIECE ? (int)(count - first) : PIECE;
        for (int i = 0; i < n; i++) {
            uint32_t word;
            memcpy(&word, &values[first + (uint64_t)i], sizeof word);
            bits[i] = word;
        }
        comm_host_sum(comm, bits, n);
        for (int i = 0; i < n; i++) {
            const uint32_t word = (uint32_t)bits[i];
            memcpy(&values[first + (uint64_t)i], &word, sizeof word);
        }
    }
}

// Computes the set in one pass over its packs, which the ranks divide; answers that no pack holds get 0. *stopped: a signal
// ended the pass before all were computed. Collective. Errors: the loader's; 1 (an answer's log-probability that is not finite).
static int compute_together(const RefSet *set, bool *stopped, Llama3 *m, Run *run, Error *err) {
    const Team *team = &run->team;
    int code = team_agree(team, compute_share(set, m, run, err), err);
    if (code) return code;
    int64_t signals = process_stop_requested();
    comm_host_sum(team->comm, &signals, 1);
    *stopped = signals != 0;
    if (team->size > 1) share_values(set->logprobs, set->key.answers, team->comm);
    return 0;
}

// ---- found or kept beside the data, or in the run's folder

static int folder_of(char folder[PATH_MAX], const char *file, Error *err) {
    const char *slash = strrchr(file, '/');
    if (!slash) return path_join(folder, ".", "", err);
    const int length = snprintf(folder, PATH_MAX, "%.*s/", (int)(slash - file), file);
    return length < PATH_MAX ? 0 : fail_input(err, "%.200s...: path too long", file);
}

static int look_for(const RefSet *set, bool *found, const char *output, Error *err) {
    char folder[PATH_MAX];
    int code = folder_of(folder, set->shard, err);
    if (!code) code = ref_logprobs_read(set->logprobs, found, folder, &set->key, err);
    if (!code && !*found) code = ref_logprobs_read(set->logprobs, found, output, &set->key, err);
    return code;
}

// Rank 0 looks for the file, and all ranks receive what it finds.
static int find(const RefSet *set, bool *found, const Run *run, Error *err) {
    const Team *team = &run->team;
    *found = false;
    int code = team_leads(team) ? look_for(set, found, run->options.output, err) : 0;
    int32_t here = *found;
    code = team_follow(team, code, err);
    if (code || team->size == 1) return code;
    comm_host_broadcast(team->comm, &here, sizeof here, 0);
    *found = here;
    if (here) comm_host_broadcast(team->comm, set->logprobs, (size_t)set->key.answers * sizeof *set->logprobs, 0);
    return 0;
}

static int keep(const RefSet *set, const char *output, Error *err) {
    char folder[PATH_MAX];
    int code = folder_of(folder, set->shard, err);
    if (!code) code = ref_logprobs_write(set->logprobs, folder, &set->key, err);
    if (code != ERROR_INPUT) return code;
    return ref_logprobs_write(set->logprobs, output, &set->key, err); // the data's folder cannot be written to
}

static int fail_missing(const RefSet *set, Error *err) {
    char folder[PATH_MAX], name[REF_LOGPROBS_NAME_SIZE];
    ref_logprobs_name(name, &set->key);
    int code = folder_of(folder, set->shard, err);
    if (code) return code;
    return fail_input(err,
                      "%s%s: missing, the %s answers' log-probabilities under the model that this run began with, of "
                      "--batch-size %d; --reference-only --init-from that model makes them again",
                      folder, name, set->what, set->key.B);
}

static int compute(const RefSet *set, Llama3 *model, Run *run, Error *err) {
    bool stopped;
    progress_print(&run->progress, "reference log-probabilities of %" PRIu64 " %s answers; nothing is trained yet",
                   set->key.answers, set->what);
    int code = compute_together(set, &stopped, model, run, err);
    if (code) return code;
    if (stopped) { // the run ends before its first step
        progress_print(&run->progress, "stopped before all were computed: none is kept, the same command begins again");
        return 0;
    }
    return team_follow(&run->team, team_leads(&run->team) ? keep(set, run->options.output, err) : 0, err);
}

// Finds the set's log-probabilities or computes them; model NULL: they have to be found.
static int prepare_set(float **logprobs, RefSet *set, Llama3 *model, Run *run, Error *err) {
    bool found;
    set->key.answers = loader_num_answers(set->loader);
    set->key.data = loader_fingerprint(set->loader);
    set->logprobs = *logprobs = calloc((size_t)set->key.answers + 1, sizeof **logprobs);
    int code =
        *logprobs ? 0 : fail_fault(err, "no memory for the log-probabilities of %" PRIu64 " answers", set->key.answers);
    code = team_agree(&run->team, code, err);
    if (code || !set->logprobs) return code;
    code = find(set, &found, run, err);
    if (code || found) return code;
    return model ? compute(set, model, run, err) : fail_missing(set, err);
}

// Opens the training set so that each pack comes once, in the order in which they were made.
static int open_packs(Loader **loader, const Run *run, const TrainData *data, LoaderSpec spec, Error *err) {
    spec.rank = 0;
    spec.world = spec.grad_accum = 1;
    spec.shuffle = false;
    spec.once = true;
    return loader_open(loader, run->options.train_data, &spec, run->config.vocab_size,
                       tokenizer_sha256(data->tokenizer), err);
}

int ref_logprobs_prepare(RefLogprobs *ref, Run *run, RunIdentity *identity, const TrainData *data,
                         const LoaderSpec *spec, Llama3 *model, Error *err) {
    RefSet train = {.what = "training", .shard = data->train_shard};
    RefSet val = {.what = "validation", .shard = data->val_shard, .loader = data->num_val ? data->val->loader : NULL};
    watchdog_phase("reference log-probabilities");
    const bool resumed = identity->reference_model != 0;
    const char *target = strncmp(identity->device, "CPU", 3) == 0 ? "cpu" : "cuda";
    int code = resumed ? 0 : fingerprint_model(&identity->reference_model, model, target, err);
    code = team_agree(&run->team, code, err);
    train.key = val.key = (RefLogprobsKey){.model = identity->reference_model, .B = spec->B, .T = spec->T};
    train.key.seed = spec->seed; // validation's packs are the same whatever the run's seed
    if (!code) code = team_agree(&run->team, open_packs(&train.loader, run, data, *spec, err), err);
    if (!code) code = prepare_set(&ref->train, &train, resumed ? NULL : model, run, err);
    if (!code && data->num_val) code = prepare_set(&ref->val, &val, resumed ? NULL : model, run, err);
    loader_close(train.loader);
    return code;
}

void ref_logprobs_fill(Llama3 *m, int i, const float *set) {
    const Batch *batch = llama3_batch(m, i);
    float *to = llama3_ref_logprobs(m, i);
    for (int a = 0; a < batch->num_answers; a++) to[a] = set[batch->answer_numbers[a]];
}

void ref_logprobs_free(RefLogprobs *ref) {
    free(ref->train);
    free(ref->val);
    *ref = (RefLogprobs){0};
}
