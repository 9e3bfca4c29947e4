#include "train/resume.h"

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/path.h"
#include "base/sha256.h"
#include "base/text.h"
#include "base/version.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/find_model.h"
#include "checkpoint/store.h"
#include "model/config_compare.h"
#include "run/run_dir.h"

// ---- which checkpoint

static void note_passed_over(void *context, const char *path, const char *reason) {
    Resume *resume = context;
    const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    cJSON *entry = cJSON_CreateObject();
    cJSON_AddStringToObject(entry, "name", name);
    cJSON_AddStringToObject(entry, "reason", reason);
    if (!resume->passed_over) resume->passed_over = cJSON_CreateArray();
    cJSON_AddItemToArray(resume->passed_over, entry);
}

// text = the reasons, with "; " in between; those that do not fit are counted.
static void join_reasons(const Resume *resume, char *text, size_t size) {
    const cJSON *entry;
    size_t used = 0;
    int left = cJSON_GetArraySize(resume->passed_over);
    text[0] = 0;
    cJSON_ArrayForEach(entry, resume->passed_over) {
        const char *reason = cJSON_GetObjectItem(entry, "reason")->valuestring;
        if (used + strlen(reason) + 24 > size) break;
        used += (size_t)snprintf(text + used, size - used, "%s%s", used ? "; " : "", reason);
        left--;
    }
    if (left) snprintf(text + used, size - used, "%s%d more", used ? "; " : "", left);
}

static void print_passed_over(const Resume *resume) {
    char reasons[4 * sizeof((Error *)NULL)->message];
    const int count = cJSON_GetArraySize(resume->passed_over);
    if (count == 0) return;
    join_reasons(resume, reasons, sizeof reasons);
    error_print("checkpoint%s passed over: %s", count > 1 ? "s" : "", reasons);
}

// resume->folder = the newest whole checkpoint of a run's folder; "" where there is no checkpoint at all.
static int find_newest(Resume *resume, const char *run, Error *err) {
    char store[PATH_MAX];
    int code = path_join(store, run, "checkpoints", err);
    if (!code) code = store_newest_whole(resume->folder, store, note_passed_over, resume, err);
    if (code || !resume->passed_over) return code;
    if (resume->folder[0]) {
        print_passed_over(resume);
        return 0;
    }
    char reasons[sizeof err->message - 256];
    join_reasons(resume, reasons, sizeof reasons);
    return fail_input(err, "--resume: expected a whole checkpoint in %.160s, found %d, none of them whole: %s", store,
                      cJSON_GetArraySize(resume->passed_over), reasons);
}

static bool exists(const char *folder, const char *name) {
    char path[PATH_MAX];
    return path_join(path, folder, name, NULL) == 0 && access(path, F_OK) == 0;
}

static int find_chosen(Resume *resume, const char *folder, Error *err) {
    if (exists(folder, "checkpoints")) {
        int code = find_newest(resume, folder, err);
        if (code || resume->folder[0]) return code;
        return fail_input(err, "--resume %s: expected a whole checkpoint in this run, found none", folder);
    }
    if (find_model_check_link(folder, err)) return err->code;
    if (access(folder, F_OK) != 0)
        return fail_input(err, "--resume %s: expected a checkpoint or a run, found no such folder", folder);
    // a run of which only the checkpoint was kept
    if (exists(folder, ".") && find_model(&folder, err)) return err->code;
    if (!exists(folder, "trainer"))
        return fail_input(err, "--resume %s: expected a checkpoint or a run, found %s", folder,
                          exists(folder, "config.json") ? "a model without trainer/: --init-from begins with it"
                                                        : "neither trainer/ nor checkpoints/ in it");
    resume->chosen = true;
    if (!realpath(folder, resume->folder)) return fail_input(err, "--resume %s: path too long", folder);
    return 0;
}

// Is the checkpoint one of those in the output folder?
static bool is_own(const Resume *resume, const char *output) {
    char store[PATH_MAX], real_store[PATH_MAX], real[PATH_MAX], *slash;
    if (path_join(store, output, "checkpoints", NULL) || !realpath(store, real_store)) return false;
    if (!realpath(resume->folder, real) || !(slash = strrchr(real, '/'))) return false;
    *slash = 0;
    return strcmp(real, real_store) == 0;
}

static int refuse_newer(const Resume *resume, const char *output, Error *err) {
    char store[PATH_MAX];
    StoreEntry *entries = NULL;
    int count = 0, code = path_join(store, output, "checkpoints", err);
    if (!code) code = store_list(&entries, &count, store, err);
    if (!code && count && entries[0].step > resume->step)
        code = fail_input(err,
                          "--resume %s: expected the newest checkpoint of --output %s, found step %lld and newer ones "
                          "up to %s; --overwrite drops those",
                          resume->folder, output, (long long)resume->step, entries[0].name);
    free(entries);
    return code;
}

static int read_state(Resume *resume, Error *err) {
    int code = checkpoint_read_state(resume->folder, &resume->state, err);
    if (!code) code = resume_integer(resume, "step", 0, &resume->step, err);
    if (!code && resume->chosen)
        code = checkpoint_verify(resume->folder, err); // after the version, which may explain more
    if (!code) code = options_from_json(&resume->options, json_get(resume->state, "options"), resume->folder, err);
    return code;
}

int resume_find(Resume *resume, const Options *o, Error *err) {
    *resume = (Resume){0};
    ResumeMode mode = options_resume(o);
    int code = 0;
    if (mode == RESUME_AUTO) {
        char store[PATH_MAX];
        code = path_join(store, o->output, "checkpoints", err);
        if (!code) store_clean(store); // a replacement that was cut short gets its checkpoint back
        if (!code) code = find_newest(resume, o->output, err);
    }
    if (code && o->overwrite && resume->passed_over) {
        print_passed_over(resume);
        code = 0; // the damaged run is replaced
    }
    if (mode == RESUME_FOLDER) code = find_chosen(resume, o->resume, err);
    if (!code && resume->folder[0]) code = read_state(resume, err);
    if (code) return code;
    resume->own = resume->folder[0] && is_own(resume, o->output);
    if (resume->own) return resume->chosen && !o->overwrite ? refuse_newer(resume, o->output, err) : 0;
    return o->overwrite ? 0 : run_dir_refuse_run(o->output, mode == RESUME_AUTO, err);
}

int resume_follow(Resume *resume, const char *folder, bool own, bool chosen, Error *err) {
    *resume = (Resume){.own = own};
    snprintf(resume->folder, sizeof resume->folder, "%s", folder);
    int code = folder[0] ? read_state(resume, err) : 0;
    resume->chosen = chosen;
    return code;
}

void resume_free(Resume *resume) {
    cJSON_Delete(resume->state);
    cJSON_Delete(resume->passed_over);
    *resume = (Resume){0};
}

// ---- members

int resume_integer(const Resume *resume, const char *name, int64_t min, int64_t *value, Error *err) {
    const cJSON *member = json_get(resume->state, name);
    double number = cJSON_IsNumber(member) ? member->valuedouble : 0.5;
    if (number < (double)min || number > 9e15 || number != (double)(int64_t)number)
        return fail_input(err, "%s/trainer/state.json: %s: expected a whole number from %lld", resume->folder, name,
                          (long long)min);
    *value = (int64_t)number;
    return 0;
}

int resume_spikes(const Resume *resume, SpikeStats *stats, Error *err) {
    const cJSON *spikes = json_get(resume->state, "spikes"), *mean = json_get(spikes, "mean"),
                *variance = json_get(spikes, "variance");
    uint64_t count;
    if (!json_is_count(json_get(spikes, "count"), INT64_MAX, &count) || !cJSON_IsNumber(mean) ||
        !cJSON_IsNumber(variance) || !isfinite(mean->valuedouble) || !(variance->valuedouble >= 0))
        return fail_input(err, "%s/trainer/state.json: spikes: expected count, mean and variance", resume->folder);
    *stats = (SpikeStats){(int64_t)count, mean->valuedouble, variance->valuedouble};
    return 0;
}

const char *resume_text(const Resume *resume, const char *name) {
    const cJSON *member = json_get(resume->state, name);
    return cJSON_IsString(member) ? member->valuestring : "";
}

int resume_fingerprint(const Resume *resume, const char *name, uint64_t *value, Error *err) {
    const char *text = resume_text(resume, name);
    if (strlen(text) != 16 || strspn(text, "0123456789abcdef") != 16)
        return fail_input(err, "%s/trainer/state.json: %s: expected 16 hexadecimal digits", resume->folder, name);
    *value = strtoull(text, NULL, 16);
    return 0;
}

StepBefore resume_step_before(const Resume *resume) {
    int64_t ranks = 1; // a checkpoint that does not say was written by one rank
    if (!resume->folder[0]) return (StepBefore){0};
    resume_integer(resume, "world_size", 1, &ranks, NULL);
    return (StepBefore){(int)ranks, resume->options.tokens_per_step};
}

// ---- is it the same run?

typedef struct {
    char text[800];
    size_t length;
} Changes;

__attribute__((format(printf, 2, 3))) static void add_change(Changes *changes, const char *format, ...) {
    va_list arguments;
    size_t room = sizeof changes->text - changes->length;
    int length = changes->length ? snprintf(changes->text + changes->length, room, ", ") : 0;
    va_start(arguments, format);
    if ((size_t)length < room)
        length += vsnprintf(changes->text + changes->length + length, room - (size_t)length, format, arguments);
    va_end(arguments);
    changes->length += (size_t)length < room ? (size_t)length : room - 1;
}

static void add_option(void *context, const char *name, const char *was, const char *is) {
    add_change(context, "--%s %s (was %s)", name, is, was);
}

static void add_text(Changes *changes, const char *what, const char *was, const char *is) {
    if (strcmp(was, is) != 0) add_change(changes, "%s %.16s (was %.16s)", what, is, was);
}

static void add_recipe(Changes *changes, const Resume *resume, const Recipe *recipe, bool other_ranks) {
    char text[600];
    if (recipe && recipe_compare(json_get(resume->state, "recipe"), recipe, other_ranks, text, sizeof text))
        add_change(changes, "%s: %s", recipe->path, text);
}

static void find_changes(Changes *changes, const Resume *resume, const Options *options, const RunIdentity *identity,
                         const Recipe *recipe) {
    char fingerprint[TEXT_FINGERPRINT_SIZE], sha[2 * SHA256_BYTES + 1];
    text_fingerprint(fingerprint, identity->train_data);
    text_hex(sha, identity->tokenizer_sha256, SHA256_BYTES);
    const bool other_ranks = resume_step_before(resume).ranks != identity->ranks;
    options_compare(&resume->options, options, other_ranks, add_option, changes);
    add_recipe(changes, resume, recipe, other_ranks);
    add_text(changes, recipe ? "sources: fingerprint" : "--train-data: fingerprint", resume_text(resume, "train_data"),
             fingerprint);
    add_text(changes, "tokenizer: SHA-256", resume_text(resume, "tokenizer_sha256"), sha);
    add_text(changes, "precision", resume_text(resume, "precision"), version_precision());
}

int resume_check_config(const Resume *resume, const char *path, const LlamaConfig *given, const LlamaConfig *kept,
                        Error *err) {
    char field[LLAMA_FIELD_TEXT], ours[LLAMA_FIELD_TEXT], theirs[LLAMA_FIELD_TEXT];
    if (!llama_config_difference(given, kept, field, ours, theirs)) return 0;
    return fail_input(err, "--config %s: %s is %s, in the checkpoint %s it is %s", path, field, ours, resume->folder,
                      theirs);
}

int resume_check(const Resume *resume, const Options *options, const RunIdentity *identity, const Recipe *recipe,
                 Error *err) {
    Changes changes = {.length = 0};
    find_changes(&changes, resume, options, identity, recipe);
    if (changes.length == 0) return 0;
    if (!options->accept_changes)
        return fail_input(err, "--resume: other than in %.150s: %s; --accept-changes goes on nevertheless",
                          resume->folder, changes.text);
    printf("changed   %s\n", changes.text);
    return 0;
}

// ---- what is printed of it

static void describe_ranks(char *text, size_t capacity, const Options *o, int ranks) {
    if (ranks == 1)
        snprintf(text, capacity, "1 rank");
    else
        snprintf(text, capacity, "%d ranks, ZeRO-%lld, shard group %d", ranks, (long long)o->zero,
                 options_shard_group(o, ranks));
}

static void print_ranks(const Resume *resume, const Options *options, int ranks) {
    char was[64], is[64];
    describe_ranks(was, sizeof was, &resume->options, resume_step_before(resume).ranks);
    describe_ranks(is, sizeof is, options, ranks);
    if (strcmp(was, is) != 0)
        printf("resume    it was written by %s, this run is of %s: rounding may differ\n", was, is);
}

static void print_machine(const Resume *resume, const RunIdentity *identity) {
    int64_t threads = 0;
    const char *device = resume_text(resume, "device");
    if (resume_integer(resume, "threads", 1, &threads, NULL)) return;
    if (strcmp(device, identity->device) == 0 && threads == identity->threads) return;
    printf("resume    it was written on %s with %lld thread%s, this is %s with %d: rounding may differ\n", device,
           (long long)threads, threads == 1 ? "" : "s", identity->device, identity->threads);
}

void resume_print(const Resume *resume, const Options *options, const RunIdentity *identity) {
    if (!resume->folder[0]) return;
    printf("resume    after step %lld, from %s (version %s)\n", (long long)resume->step, resume->folder,
           resume_text(resume, "program_version"));
    print_ranks(resume, options, identity->ranks);
    print_machine(resume, identity);
}
