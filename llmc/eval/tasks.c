#include "eval/tasks.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/match.h"
#include "base/text.h"
#include "eval/pack.h"
#include "eval/score.h"

typedef struct {
    char *name;
    EvalSet *set;
    EvalPacking packing;
    double *loglikelihoods; // [num_endings]
    bool *exact;            // of needles, [num_endings], then the first num_items: of the items; else NULL
} Task;

struct EvalTasks {
    Task *tasks;
    int count;
};

static int find_files(FileList *found, const char *pattern, Error *err) {
    int code = file_match(found, pattern, "evaluation of prepare_eval.py", err);
    if (!code && found->count > INT_MAX) code = fail_input(err, "%s: %zu files", pattern, found->count);
    return code;
}

static int check_set(const EvalSet *set, int vocab_size, const uint8_t *sha256, Error *err) {
    if (set->vocab_size > vocab_size)
        return fail_input(err, "%s: vocabulary size is %d, expected at most the model's %d", set->path, set->vocab_size,
                          vocab_size);
    if (!sha256 || memcmp(set->tokenizer_sha256, sha256, sizeof set->tokenizer_sha256) == 0) return 0;
    char has[17], wants[17];
    text_hex(has, set->tokenizer_sha256, 8);
    text_hex(wants, sha256, 8);
    return fail_input(
        err,
        "%s: made with the tokenizer of SHA-256 %s..., expected %s... (the run's tokenizer): prepare_eval.py "
        "--tokenizer makes it for that one",
        set->path, has, wants);
}

static char *name_of(const char *path) {
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path, *dot = strrchr(base, '.');
    return strndup(base, dot && dot > base ? (size_t)(dot - base) : strlen(base));
}

static int open_task(Task *task, const char *path, int T, int vocab_size, const uint8_t *sha256, Error *err) {
    int code = evalset_open(&task->set, path, err);
    if (!code) code = check_set(task->set, vocab_size, sha256, err);
    if (!code) code = evalpack_create(&task->packing, task->set, T, err);
    if (code) return code;
    task->name = name_of(path);
    const size_t endings = (size_t)task->set->num_endings;
    const bool needles = task->set->kind == EVAL_NEEDLES;
    task->loglikelihoods = calloc(endings, sizeof *task->loglikelihoods);
    if (needles) task->exact = calloc(endings, sizeof *task->exact);
    return task->name && task->loglikelihoods && (task->exact || !needles) ? 0 : fail_fault(err, "%s: no memory", path);
}

int evaltasks_open(EvalTasks **out, const char *pattern, int T, int vocab_size, const uint8_t *tokenizer_sha256,
                   Error *err) {
    FileList found;
    EvalTasks *tasks = NULL;
    int code = find_files(&found, pattern, err);
    if (!code) {
        tasks = calloc(1, sizeof *tasks);
        if (tasks) tasks->tasks = calloc(found.count, sizeof *tasks->tasks);
        if (!tasks || !tasks->tasks) code = fail_fault(err, "%s: no memory", pattern);
    }
    for (size_t i = 0; !code && i < found.count; i++) {
        code = open_task(&tasks->tasks[i], found.paths[i], T, vocab_size, tokenizer_sha256, err);
        tasks->count++; // a task half open is closed too
    }
    file_list_free(&found);
    if (code)
        evaltasks_close(tasks);
    else
        *out = tasks;
    return code;
}

void evaltasks_close(EvalTasks *tasks) {
    if (!tasks) return;
    for (int i = 0; i < tasks->count; i++) {
        Task *task = &tasks->tasks[i];
        evalset_close(task->set);
        evalpack_free(&task->packing);
        free(task->loglikelihoods);
        free(task->exact);
        free(task->name);
    }
    free(tasks->tasks);
    free(tasks);
}

int evaltasks_count(const EvalTasks *tasks) { return tasks->count; }

const char *evaltasks_name(const EvalTasks *tasks, int index) { return tasks->tasks[index].name; }

bool evaltasks_measures(const EvalTasks *tasks, int index, const char *measure) {
    const EvalResult none = {.kind = tasks->tasks[index].set->kind};
    double value;
    return eval_measure_named(&none, measure, &value);
}

// exact: of endings becomes of items, which are no more.
static void keep_right_endings(const EvalSet *set, bool *exact) {
    for (int64_t i = 0; i < set->num_items; i++) exact[i] = exact[set->items[i].first_ending + set->items[i].label];
}

int evaltasks_run(EvalTasks *tasks, int index, Llama3 *m, int B, EvalDecode decode, EvalStop stop, EvalResult *result,
                  Error *err) {
    Task *task = &tasks->tasks[index];
    int code = eval_score(task->loglikelihoods, task->exact, m, B, task->set, &task->packing, stop, err);
    if (!code && task->exact && !decode) keep_right_endings(task->set, task->exact);
    if (!code && task->exact && decode) code = decode(task->exact, m, task->set, stop, err);
    if (!code) *result = eval_measure(task->set, task->loglikelihoods, task->exact);
    return code;
}
