// Training and validation data, and the tokenizer that they were made with.
#include "train/trainer_internal.h"

#include <cjson/cJSON.h>
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
static int find_shard(char path[PATH_MAX], const Trainer *t, const char *what, const char *pattern, bool *named,
                      Error *err) {
    FileList found;
    int code = file_match(&found, pattern, what, err);
    if (!code && snprintf(path, PATH_MAX, "%s", found.paths[0]) >= PATH_MAX)
        code = fail_input(err, "%.200s...: expected a path of at most %d bytes", pattern, PATH_MAX - 1);
    file_list_free(&found);
    return code ? code : data_file_check_kind(path, trainer_loader_kind(&t->run.options), named, err);
}

// Shards of llm.c name no tokenizer and bring none: it is --tokenizer's, or the one that lies beside them, or that of the
// model that training goes on with, or none at all.
static int find_llmc_tokenizer(Trainer *t, Error *err) {
    const char *folder = trainer_model_folder(t);
    if (access(t->data.tokenizer_path, F_OK) == 0) return 0;
    int code = folder ? path_join(t->data.tokenizer_path, folder, "tokenizer.json", err) : 0;
    if (!code && (!folder || access(t->data.tokenizer_path, F_OK) != 0)) t->data.tokenizer_path[0] = 0;
    return code;
}

static int fail_needs_tokenizer(const Trainer *t, const char *option, Error *err) {
    return fail_input(err, "--%s: expected --tokenizer FILE, since %s, a shard of llm.c, names none", option,
                      t->data.train_shard);
}

// Whether it can be the one that a shard of llm.c was made with.
static int check_llmc_tokenizer(const Trainer *t, Error *err) {
    const uint32_t ids = (uint32_t)tokenizer_vocab_size(t->data.tokenizer), bos = loader_bos_id(t->data.train);
    if (ids <= loader_vocab_size(t->data.train) && (bos == SHARD_NO_ID || bos < ids)) return 0;
    return fail_input(err, "%s: %u ids, expected the %u of %s, a shard of llm.c", t->data.tokenizer_path, ids,
                      loader_vocab_size(t->data.train), t->data.train_shard);
}

static int fail_no_tokenizer(const Trainer *t, Error *err) {
    return fail_input(err, "%s: no such file, expected the tokenizer that the shards were made with: --tokenizer FILE",
                      t->data.tokenizer_path);
}

static int open_tokenizer(Trainer *t, bool named, Error *err) {
    const char *given = t->run.options.tokenizer;
    int code = path_beside(t->data.tokenizer_path, t->data.train_shard, "tokenizer.json", err);
    if (!code && !given && !named) code = find_llmc_tokenizer(t, err);
    if (code) return code;
    if (given && snprintf(t->data.tokenizer_path, PATH_MAX, "%s", given) >= PATH_MAX)
        return fail_input(err, "--tokenizer %.200s...: path too long", given);
    if (!t->data.tokenizer_path[0] && t->run.options.sample_every) return fail_needs_tokenizer(t, "sample-every", err);
    if (!t->data.tokenizer_path[0] && t->run.options.eval_tasks) return fail_needs_tokenizer(t, "eval-tasks", err);
    if (!t->data.tokenizer_path[0]) return 0;
    if (!given && access(t->data.tokenizer_path, F_OK) != 0) return fail_no_tokenizer(t, err);
    return tokenizer_open(&t->data.tokenizer, t->data.tokenizer_path, err);
}

static int open_loader(Trainer *t, Loader **loader, const char *pattern, const LoaderSpec *spec, Error *err) {
    const uint8_t *sha256 = t->data.tokenizer ? tokenizer_sha256(t->data.tokenizer) : NULL;
    return loader_open(loader, pattern, spec, t->run.config.vocab_size, sha256, err);
}

// A unigram model's loss on the validation data, which prepare_data.py leaves beside them in meta.json.
static double read_unigram_loss(const char *shard) {
    char path[PATH_MAX];
    cJSON *meta = NULL;
    if (path_beside(path, shard, "meta.json", NULL) || json_read_object(&meta, path, MAX_META_BYTES, NULL)) return NAN;
    const cJSON *loss = json_get(meta, "unigram_val_loss");
    double value = cJSON_IsNumber(loss) ? loss->valuedouble : NAN;
    cJSON_Delete(meta);
    return value;
}

LoaderSpec trainer_loader_spec(const Trainer *t) {
    const Options *o = &t->run.options;
    return (LoaderSpec){.B = (int)o->batch_size,
                        .T = (int)o->seq_len,
                        .grad_accum = (int)o->grad_accum,
                        .rank = t->run.team.rank,
                        .world = t->run.team.size,
                        .seed = (uint64_t)o->seed,
                        .document_mask = o->document_mask,
                        .shuffle = true,
                        .kind = trainer_loader_kind(o),
                        .shuffle_answers = o->task == TASK_REWARD,
                        .skip_long = o->skip_long};
}

static int open_training(Trainer *t, const LoaderSpec *spec, Error *err) {
    bool named = true;
    int code = find_shard(t->data.train_shard, t, "shard for --train-data", t->run.options.train_data, &named, err);
    if (!code) code = open_tokenizer(t, named, err);
    if (!code) code = open_loader(t, &t->data.train, t->run.options.train_data, spec, err);
    return code || named || !t->data.tokenizer ? code : check_llmc_tokenizer(t, err);
}

static int open_validation(Trainer *t, LoaderSpec spec, Error *err) {
    const Options *o = &t->run.options;
    spec.grad_accum = 1;
    spec.rank = 0; // evaluate() divides the micro-batches itself
    spec.world = 1;
    spec.seed = 0; // the same windows whatever the run's seed, so that runs can be compared
    spec.once = o->task != TASK_PRETRAIN;
    int code = find_shard(t->data.val_shard, t, "shard for --val-data", o->val_data, NULL, err);
    if (!code) code = open_loader(t, &t->data.val, o->val_data, &spec, err);
    if (!code) code = loader_refuse_overlap(t->data.train, t->data.val, err);
    if (!code && o->task == TASK_PRETRAIN) t->data.unigram_loss = read_unigram_loss(t->data.val_shard);
    return code;
}

int trainer_open_data(Trainer *t, Error *err) {
    const LoaderSpec spec = trainer_loader_spec(t);
    int code = open_training(t, &spec, err);
    if (!code && t->run.options.val_data) code = open_validation(t, spec, err);
    return code;
}
