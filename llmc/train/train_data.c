#include "train/train_data.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <math.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/json.h"
#include "base/match.h"
#include "base/path.h"
#include "loader/data_file.h"
#include "loader/shard.h"

enum { MAX_META_BYTES = 1 << 20 };

// path = the first shard that the pattern names.
static int find_shard(char path[PATH_MAX], LoaderKind kind, const char *what, const char *pattern, bool *named,
                      Error *err) {
    FileList found;
    int code = file_match(&found, pattern, what, err);
    if (!code && snprintf(path, PATH_MAX, "%s", found.paths[0]) >= PATH_MAX)
        code = fail_input(err, "%.200s...: expected a path of at most %d bytes", pattern, PATH_MAX - 1);
    file_list_free(&found);
    return code ? code : data_file_check_kind(path, kind, named, err);
}

// Shards of llm.c name no tokenizer. It is that of --tokenizer, or the one beside them, or that of the model that training begins
// with, or there is none.
static int find_llmc_tokenizer(TrainData *data, const char *folder, Error *err) {
    if (access(data->tokenizer_path, F_OK) == 0) return 0;
    int code = folder ? path_join(data->tokenizer_path, folder, "tokenizer.json", err) : 0;
    if (!code && (!folder || access(data->tokenizer_path, F_OK) != 0)) data->tokenizer_path[0] = 0;
    return code;
}

static int fail_needs_tokenizer(const TrainData *data, const char *option, Error *err) {
    return fail_input(err, "--%s: expected --tokenizer FILE, since %s, a shard of llm.c, names none", option,
                      data->train_shard);
}

static const DataFile *first_file(const TrainData *data) {
    int count;
    return mixture_files(data->mixture, 0, &count);
}

// Refuses a tokenizer that a shard of llm.c cannot have been made with.
static int check_llmc_tokenizer(const TrainData *data, Error *err) {
    const uint32_t ids = (uint32_t)tokenizer_vocab_size(data->tokenizer), bos = train_data_bos_id(data);
    const uint32_t expected = data->mixture ? first_file(data)->vocab_size : loader_vocab_size(data->train);
    if (ids <= expected && (bos == SHARD_NO_ID || bos < ids)) return 0;
    return fail_input(err, "%s: %u ids, expected the %u of %s, a shard of llm.c", data->tokenizer_path, ids, expected,
                      data->train_shard);
}

static int fail_no_tokenizer(const TrainData *data, Error *err) {
    return fail_input(err, "%s: no such file, expected the tokenizer that the shards were made with: --tokenizer FILE",
                      data->tokenizer_path);
}

static int open_tokenizer(TrainData *data, const Options *o, const char *model_folder, bool named, Error *err) {
    const char *given = o->tokenizer;
    int code = path_beside(data->tokenizer_path, data->train_shard, "tokenizer.json", err);
    if (!code && !given && !named) code = find_llmc_tokenizer(data, model_folder, err);
    if (code) return code;
    if (given && snprintf(data->tokenizer_path, PATH_MAX, "%s", given) >= PATH_MAX)
        return fail_input(err, "--tokenizer %.200s...: path too long", given);
    if (!data->tokenizer_path[0] && o->sample_every) return fail_needs_tokenizer(data, "sample-every", err);
    if (!data->tokenizer_path[0] && o->eval_tasks) return fail_needs_tokenizer(data, "eval-tasks", err);
    if (!data->tokenizer_path[0]) return 0;
    if (!given && access(data->tokenizer_path, F_OK) != 0) return fail_no_tokenizer(data, err);
    return tokenizer_open(&data->tokenizer, data->tokenizer_path, err);
}

static const uint8_t *sha256_to_expect(const TrainData *data) {
    return data->tokenizer ? tokenizer_sha256(data->tokenizer) : NULL;
}

// A unigram model's loss on the validation data, which prepare_data.py writes into meta.json beside them.
static double read_unigram_loss(const char *shard) {
    char path[PATH_MAX];
    cJSON *meta = NULL;
    if (path_beside(path, shard, "meta.json", NULL) || json_read_object(&meta, path, MAX_META_BYTES, NULL)) return NAN;
    const cJSON *loss = json_get(meta, "unigram_val_loss");
    double value = cJSON_IsNumber(loss) ? loss->valuedouble : NAN;
    cJSON_Delete(meta);
    return value;
}

static int open_mixture(TrainData *data, const Recipe *recipe, uint64_t seed, int vocab_size, Error *err) {
    MixtureSource sources[RECIPE_MAX_SOURCES];
    data->num_sources = recipe->num_sources;
    for (int i = 0; i < recipe->num_sources; i++)
        sources[i] = (MixtureSource){recipe->sources[i].name, recipe->sources[i].train, recipe->sources[i].max_epochs};
    return mixture_open(&data->mixture, sources, recipe->num_sources, recipe_block(recipe), seed, vocab_size,
                        sha256_to_expect(data), err);
}

static int open_training(TrainData *data, const Options *o, const Recipe *recipe, const LoaderSpec *spec,
                         const char *model_folder, int vocab_size, Error *err) {
    bool named = true;
    char what[128] = "shard for --train-data";
    if (recipe) snprintf(what, sizeof what, "shard for sources.%.60s.train of the recipe", recipe->sources[0].name);
    const char *pattern = recipe ? recipe->sources[0].train : o->train_data;
    int code = find_shard(data->train_shard, spec->kind, what, pattern, &named, err);
    if (!code) code = open_tokenizer(data, o, model_folder, named, err);
    if (!code && recipe) code = open_mixture(data, recipe, spec->seed, vocab_size, err);
    if (!code && !recipe) code = loader_open(&data->train, pattern, spec, vocab_size, sha256_to_expect(data), err);
    return code || named || !data->tokenizer ? code : check_llmc_tokenizer(data, err);
}

// Opens one more set, of which only spec and vocab_size are the training data's.
static int open_set(TrainData *data, const char *source, const char *pattern, LoaderSpec spec, int vocab_size,
                    Error *err) {
    char what[128] = "shard for --val-data";
    ValidationSet *set = &data->val[data->num_val];
    spec.grad_accum = 1;
    spec.rank = 0; // evaluate() divides the micro-batches itself
    spec.world = 1;
    spec.seed = 0; // the same windows whatever the run's seed, so that runs can be compared
    spec.once = spec.kind != LOADER_DOCUMENTS;
    if (source) snprintf(what, sizeof what, "shard for sources.%.60s.val of the recipe", source);
    int code = find_shard(data->val_shard, spec.kind, what, pattern, NULL, err);
    if (!code) code = loader_open(&set->loader, pattern, &spec, vocab_size, sha256_to_expect(data), err);
    set->source = source;
    data->num_val += !code;
    return code;
}

static int refuse_overlaps(const TrainData *data, Error *err) {
    int code = 0;
    for (int i = 0; !code && i < data->num_val; i++)
        code = data->mixture ? mixture_refuse_overlap(data->mixture, data->val[i].loader, data->val[i].source, err)
                             : loader_refuse_overlap(data->train, data->val[i].loader, err);
    return code;
}

static void close_validation(TrainData *data) {
    for (int i = 0; i < data->num_val; i++) loader_close(data->val[i].loader);
    data->num_val = 0;
}

int train_data_reopen_validation(TrainData *data, const Recipe *recipe, const LoaderSpec *spec, int vocab_size,
                                 Error *err) {
    int code = 0;
    close_validation(data);
    for (int i = 0; !code && i < recipe->num_sources; i++)
        if (recipe->sources[i].val)
            code = open_set(data, recipe->sources[i].name, recipe->sources[i].val, *spec, vocab_size, err);
    return code;
}

int train_data_open(TrainData *data, const Options *options, const Recipe *recipe, const LoaderSpec *spec,
                    const char *model_folder, int vocab_size, Error *err) {
    *data = (TrainData){.unigram_loss = NAN};
    data->val = calloc(recipe ? (size_t)recipe->num_sources : 1, sizeof *data->val);
    if (!data->val) return fail_fault(err, "out of memory");
    int code = open_training(data, options, recipe, spec, model_folder, vocab_size, err);
    if (!code && recipe) code = train_data_reopen_validation(data, recipe, spec, vocab_size, err);
    if (!code && !recipe && options->val_data) code = open_set(data, NULL, options->val_data, *spec, vocab_size, err);
    if (!code) code = refuse_overlaps(data, err);
    if (code || recipe) return code;
    if (data->num_val && spec->kind == LOADER_DOCUMENTS) data->unigram_loss = read_unigram_loss(data->val_shard);
    return code;
}

int train_data_fetch(TrainData *data, const Run *run, const TrainState *state, int micro, Batch *out, Error *err) {
    const int64_t B = run->options.batch_size, ranks = run->team.size;
    if (data->train) return loader_fetch(data->train, state->step + state->data_offset, micro, out, err);
    const int64_t micros = (state->step - state->place.span_step) * run->options.grad_accum + micro;
    return mixture_fetch(data->mixture, (micros * ranks + run->team.rank) * B, (int)B, out, err);
}

// ---- what the files say

uint64_t train_data_fingerprint(const TrainData *data) {
    uint64_t fingerprint = 0;
    if (data->train) return loader_fingerprint(data->train);
    for (int i = 0; i < data->num_sources; i++) fingerprint = 31 * fingerprint + mixture_fingerprint(data->mixture, i);
    return fingerprint;
}

uint64_t train_data_val_fingerprint(const TrainData *data) {
    uint64_t fingerprint = 0;
    for (int i = 0; i < data->num_val; i++) fingerprint = 31 * fingerprint + loader_fingerprint(data->val[i].loader);
    return fingerprint;
}

uint32_t train_data_bos_id(const TrainData *data) {
    return data->train ? loader_bos_id(data->train) : first_file(data)->bos_id;
}

uint32_t train_data_eos_id(const TrainData *data) {
    return data->train ? loader_eos_id(data->train) : first_file(data)->eos_id;
}

void train_data_print_skipped(const Loader *loader, const char *option, int T) {
    const uint64_t skipped = loader_num_skipped(loader);
    char first[LOADER_SKIPPED_SIZE];
    if (!skipped) return;
    loader_describe_skipped(loader, first, sizeof first);
    printf("skipped   %" PRIu64 " of the rows of %s, longer than --seq-len %d (--skip-long), the first: %s\n", skipped,
           option, T, first);
}

void train_data_close(TrainData *data) {
    close_validation(data);
    free(data->val);
    loader_close(data->train);
    mixture_close(data->mixture);
    tokenizer_close(data->tokenizer);
}
