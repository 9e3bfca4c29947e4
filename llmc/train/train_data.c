#include "train/train_data.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
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

// Refuses a tokenizer that a shard of llm.c cannot have been made with.
static int check_llmc_tokenizer(const TrainData *data, Error *err) {
    const uint32_t ids = (uint32_t)tokenizer_vocab_size(data->tokenizer), bos = loader_bos_id(data->train);
    if (ids <= loader_vocab_size(data->train) && (bos == SHARD_NO_ID || bos < ids)) return 0;
    return fail_input(err, "%s: %u ids, expected the %u of %s, a shard of llm.c", data->tokenizer_path, ids,
                      loader_vocab_size(data->train), data->train_shard);
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

static int open_training(TrainData *data, const Options *o, const LoaderSpec *spec, const char *model_folder,
                         int vocab_size, Error *err) {
    bool named = true;
    int code = find_shard(data->train_shard, spec->kind, "shard for --train-data", o->train_data, &named, err);
    if (!code) code = open_tokenizer(data, o, model_folder, named, err);
    if (!code) code = loader_open(&data->train, o->train_data, spec, vocab_size, sha256_to_expect(data), err);
    return code || named || !data->tokenizer ? code : check_llmc_tokenizer(data, err);
}

static int open_validation(TrainData *data, const Options *o, LoaderSpec spec, int vocab_size, Error *err) {
    const bool documents = spec.kind == LOADER_DOCUMENTS;
    spec.grad_accum = 1;
    spec.rank = 0; // evaluate() divides the micro-batches itself
    spec.world = 1;
    spec.seed = 0; // the same windows whatever the run's seed, so that runs can be compared
    spec.once = !documents;
    int code = find_shard(data->val_shard, spec.kind, "shard for --val-data", o->val_data, NULL, err);
    if (!code) code = loader_open(&data->val, o->val_data, &spec, vocab_size, sha256_to_expect(data), err);
    if (!code) code = loader_refuse_overlap(data->train, data->val, err);
    if (!code && documents) data->unigram_loss = read_unigram_loss(data->val_shard);
    return code;
}

int train_data_open(TrainData *data, const Options *options, const LoaderSpec *spec, const char *model_folder,
                    int vocab_size, Error *err) {
    *data = (TrainData){.unigram_loss = NAN};
    int code = open_training(data, options, spec, model_folder, vocab_size, err);
    if (!code && options->val_data) code = open_validation(data, options, *spec, vocab_size, err);
    return code;
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
    loader_close(data->val);
    loader_close(data->train);
    tokenizer_close(data->tokenizer);
}
