#include "train/eval_only.h"

#include <limits.h>
#include <stdio.h>
#include <unistd.h>

#include "base/json.h"
#include "base/path.h"
#include "base/sha256.h"
#include "checkpoint/checkpoint.h"
#include "device/threads.h"
#include "eval/tasks.h"
#include "generate/greedy.h"
#include "loader/loader.h"
#include "model/llama3_create.h"
#include "options/options_table.h"
#include "run/process.h"
#include "run/run_dir.h"
#include "train/evaluate.h"
#include "train/task.h"
#include "train/train_data.h"

enum { LONGEST_DEFAULT = 2048 };

typedef struct {
    const Options *options;
    const Team *team;
    LlamaConfig config;
    int B, T;
    bool has_tokenizer;
    uint8_t tokenizer_sha256[SHA256_BYTES];
    EvalTasks *tasks;
    Loader *val;
    Llama3 *model;
    int64_t step; // of the model, where it is a checkpoint; else 0
    RunDir output;
    Log log;
} Evaluation;

// A model that was trained on llm.c's shards may have no tokenizer.
static int find_tokenizer(Evaluation *e, Error *err) {
    const char *given = e->options->tokenizer;
    char path[PATH_MAX];
    int code = path_join(path, e->options->init_from, "tokenizer.json", err);
    if (code || (!given && access(path, F_OK) != 0)) return code;
    e->has_tokenizer = true;
    return sha256_file(given ? given : path, e->tokenizer_sha256, err);
}

static int fail_no_tokenizer(const Evaluation *e, Error *err) {
    return fail_input(
        err, "%s/tokenizer.json: no such file, expected the one that the data were made with: --tokenizer FILE",
        e->options->init_from);
}

static int read_model_folder(Evaluation *e, Error *err) {
    const Options *o = e->options;
    char path[PATH_MAX];
    int code = path_join(path, o->init_from, "config.json", err);
    bool new_head = false;
    if (!code) code = task_read_config(&e->config, &new_head, task_kind(o), path, err);
    if (new_head)
        code = fail_input(err, "%s: a language model, expected a reward model (LlamaForSequenceClassification)", path);
    if (!code) code = find_tokenizer(e, err);
    const int longest = e->config.max_position_embeddings;
    e->B = (int)o->batch_size;
    e->T = o->seq_len ? (int)o->seq_len : longest < LONGEST_DEFAULT ? longest : LONGEST_DEFAULT;
    return code;
}

static int open_data(Evaluation *e, Error *err) {
    const Options *o = e->options;
    LoaderSpec spec = task_loader(o, e->team);
    spec.B = e->B;
    spec.T = e->T;
    spec.grad_accum = 1;
    spec.seed = 0;
    spec.shuffle_answers = false;
    // all windows; with --eval-batches the same ones as in training
    spec.once = task_rows(task_kind(o)) || !options_given(o, "eval-batches");
    int code = o->eval_tasks && !e->has_tokenizer ? fail_no_tokenizer(e, err) : 0;
    if (!code && o->eval_tasks)
        code = evaltasks_open(&e->tasks, o->eval_tasks, e->T, e->config.vocab_size, e->tokenizer_sha256, err);
    if (!code && o->val_data)
        code = loader_open(&e->val, o->val_data, &spec, e->config.vocab_size,
                           e->has_tokenizer ? e->tokenizer_sha256 : NULL, err);
    if (!code && e->val && !e->has_tokenizer && loader_names_tokenizer(e->val)) code = fail_no_tokenizer(e, err);
    if (!code && e->val) train_data_print_skipped(e->val, "--val-data", e->T);
    return code;
}

static int create_model(Evaluation *e, Error *err) {
    RunShape shape = {.B = e->B, .T = e->T, .micro_batches = 1};
    task_set_loss(&shape, e->options);
    int code = llama3_create(&e->model, &e->config, &shape, err);
    return code ? code : checkpoint_read_weights(e->options->init_from, e->model, err);
}

// Opens the folder of --output, which may hold nothing else.
static int open_output(Evaluation *e, Error *err) {
    char path[PATH_MAX];
    cJSON *state = NULL;
    const Options *o = e->options;
    if (!o->output) return 0;
    int code = run_dir_open(&e->output, o->output, err);
    if (!code) code = run_dir_refuse_results(o->output, o->overwrite, err);
    if (!code) code = path_join(path, o->output, "log.jsonl", err);
    if (!code) code = log_open(&e->log, path, err);
    if (code) return code;
    if (checkpoint_read_state(o->init_from, &state, NULL) == 0) {
        uint64_t step;
        if (json_is_count(json_get(state, "step"), INT64_MAX, &step)) e->step = (int64_t)step;
        cJSON_Delete(state);
    }
    log_evaluated(&e->log, e->step, o->init_from);
    return 0;
}

static void print_coverage(const Evaluation *e, int64_t batches) {
    char coverage[64];
    const bool all = evaluate_coverage(coverage, sizeof coverage, e->val, e->B, batches);
    printf("validation data: %s of %d tokens", coverage, e->T);
    if (!all) printf(" (--eval-batches %lld)", (long long)batches);
    printf("\n");
}

static int show_validation(Evaluation *e, Error *err) {
    Evaluated result;
    const Options *o = e->options;
    const int64_t batches = options_given(o, "eval-batches") ? o->eval_batches : INT64_MAX;
    int code = evaluate(e->model, e->val, NULL, NULL, batches, 1, &result, err);
    if (code) return code;
    const bool compares = task_compares(task_kind(o));
    const LogPreference preference = task_preference(task_kind(o), result.sums, (double)result.targets);
    log_evaluation(&e->log, e->step, evaluated_loss(&result), NULL, 0, compares ? &preference : NULL);
    print_coverage(e, batches);
    printf("validation loss %.4f", evaluated_loss(&result));
    if (compares) printf(", %.1f %% of %lld pairs right", 100 * preference.accuracy, (long long)result.targets);
    printf("\n");
    return 0;
}

static int show_tasks(Evaluation *e, Error *err) {
    for (int i = 0; e->tasks && i < evaltasks_count(e->tasks); i++) {
        EvalResult result;
        char text[256];
        int code = evaltasks_run(e->tasks, i, e->model, e->B, greedy_match, process_stop_requested, &result, err);
        if (code) return code;
        if (process_stop_requested()) return fail_fault(err, "stopped by a signal");
        eval_log(&e->log, e->step, evaltasks_name(e->tasks, i), &result);
        eval_describe(text, sizeof text, &result);
        printf("%s: %s\n", evaltasks_name(e->tasks, i), text);
        fflush(stdout);
    }
    return 0;
}

int eval_only(const Options *options, const Team *team, Error *err) {
    Evaluation e = {.options = options, .team = team, .output.lock.fd = -1, .log.fd = -1};
    if (team->size > 1) return fail_input(err, "--eval-only: expected one rank, found %d", team->size);
    int code = threads_set((int)options->threads, 1, err);
    if (!code) code = read_model_folder(&e, err);
    if (!code) code = open_data(&e, err);
    if (!code) code = create_model(&e, err);
    if (!code) code = open_output(&e, err);
    if (!code && e.val) code = show_validation(&e, err);
    if (!code) code = show_tasks(&e, err);
    llama3_destroy(e.model);
    loader_close(e.val);
    evaltasks_close(e.tasks);
    log_close(&e.log);
    run_dir_close(&e.output);
    return code;
}
