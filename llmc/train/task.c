#include "train/task.h"

#include <math.h>
#include <stdio.h>

#include "checkpoint/padding.h"
#include "run/import.h"

struct TaskKind {
    LoaderKind data;
    const char *rows;                        // what the data's rows are called; NULL: the data are documents
    bool shuffle_answers;                    // so that their order in a pack does not reveal the chosen one
    bool has_nll;                            // the loss includes the chosen answer's negative log-likelihood
    PreferenceLoss (*loss)(const Options *); // of pairs of answers; NULL: next-token cross-entropy
    int (*adapt_config)(LlamaConfig *config, bool *new_head, const char *path, Error *err);
    int (*check_origin)(const Task *task, const Options *options, const TrainData *data, Error *err);
    int (*resume)(RunIdentity *identity, const Resume *resume, Error *err);
    int (*prepare)(Task *task, Run *run, RunIdentity *identity, const TrainData *data, Llama3 *model, Error *err);
    int (*copy_files)(Run *run, const TrainData *data, Error *err);
};

// ---- losses

static PreferenceLoss dpo_loss(const Options *o) {
    return (PreferenceLoss){.kind = o->dpo_loss == DPO_IPO ? PREFERENCE_IPO : PREFERENCE_DPO,
                            .beta = (float)o->dpo_beta,
                            .label_smoothing = (float)o->label_smoothing,
                            .nll = (float)o->dpo_nll,
                            .nll_summed = o->dpo_nll_sum};
}

static PreferenceLoss reward_loss(const Options *o) {
    return (PreferenceLoss){.kind = PREFERENCE_REWARD, .beta = 1, .label_smoothing = (float)o->label_smoothing};
}

// ---- the model

static int demand_language_model(LlamaConfig *config, bool *new_head, const char *path, Error *err) {
    (void)new_head;
    return llama_config_demand_language_model(config, path, err);
}

static int become_reward_model(LlamaConfig *config, bool *new_head, const char *path, Error *err) {
    (void)path;
    (void)err;
    *new_head = config->num_labels == 0;
    if (*new_head) config->num_labels = 1;
    return 0;
}

static int demand_own_tokenizer(const Task *task, const Options *options, const TrainData *data, Error *err) {
    if (task->origin) return 0;
    return fail_input(err,
                      "%s/tokenizer.json: not the tokenizer that %s was prepared with: --task %s needs the model's own",
                      task->model_folder, data->train_shard, options_task_name(options));
}

static int check_reward_origin(const Task *task, const Options *options, const TrainData *data, Error *err) {
    int code = demand_own_tokenizer(task, options, data, err);
    return code ? code : import_check_padding(task->origin, data->train_shard, err);
}

// ---- files of the output folder that checkpoints copy

static int copy_chat_files(Run *run, const TrainData *data, Error *err) {
    return import_chat_files(run->options.output, data->train_shard, err);
}

static bool occurs(const void *train_data, int id) {
    const TrainData *data = train_data;
    return loader_has_token(data->train, (uint32_t)id) ||
           (data->num_val && loader_has_token(data->val->loader, (uint32_t)id));
}

// A reward model's files also name the token that it pads with.
static int copy_reward_files(Run *run, const TrainData *data, Error *err) {
    int code = copy_chat_files(run, data, err);
    if (!code) code = padding_settle(&run->config, run->options.output, occurs, data, err);
    if (!code && run->config.pad_token_id < 0)
        printf("padding   none: the tokenizer has no special token to spare, transformers scores one text at a time\n");
    return code;
}

// ---- before the first step

static int resume_ref_logprobs(RunIdentity *identity, const Resume *resume, Error *err) {
    return resume_fingerprint(resume, "reference_model", &identity->reference_model, err);
}

static int prepare_ref_logprobs(Task *task, Run *run, RunIdentity *identity, const TrainData *data, Llama3 *model,
                                Error *err) {
    const LoaderSpec spec = task_loader(&run->options, &run->team);
    return ref_logprobs_prepare(&task->ref_logprobs, run, identity, data, &spec, model, err);
}

// ---- the table

static const TaskKind kinds[] = {
    [TASK_PRETRAIN] = {.data = LOADER_DOCUMENTS, .adapt_config = demand_language_model},
    [TASK_SFT] = {.data = LOADER_CONVERSATIONS,
                  .rows = "conversations",
                  .adapt_config = demand_language_model,
                  .check_origin = demand_own_tokenizer,
                  .copy_files = copy_chat_files},
    [TASK_DPO] = {.data = LOADER_COMPARISONS,
                  .rows = "comparisons",
                  .has_nll = true,
                  .loss = dpo_loss,
                  .adapt_config = demand_language_model,
                  .check_origin = demand_own_tokenizer,
                  .resume = resume_ref_logprobs,
                  .prepare = prepare_ref_logprobs,
                  .copy_files = copy_chat_files},
    [TASK_REWARD] = {.data = LOADER_COMPARISONS,
                     .rows = "comparisons",
                     .shuffle_answers = true,
                     .loss = reward_loss,
                     .adapt_config = become_reward_model,
                     .check_origin = check_reward_origin,
                     .copy_files = copy_reward_files},
};

const TaskKind *task_kind(const Options *options) { return &kinds[options->task]; }

const char *task_rows(const TaskKind *kind) { return kind->rows; }

bool task_compares(const TaskKind *kind) { return kind->data == LOADER_COMPARISONS; }

LoaderSpec task_loader(const Options *o, const Team *team) {
    return (LoaderSpec){.B = (int)o->batch_size,
                        .T = (int)o->seq_len,
                        .grad_accum = (int)o->grad_accum,
                        .rank = team->rank,
                        .world = team->size,
                        .seed = (uint64_t)o->seed,
                        .document_mask = o->document_mask,
                        .shuffle = true,
                        .kind = task_kind(o)->data,
                        .shuffle_answers = task_kind(o)->shuffle_answers,
                        .skip_long = o->skip_long};
}

void task_set_loss(RunShape *shape, const Options *options) {
    const TaskKind *kind = task_kind(options);
    shape->comparisons = task_compares(kind);
    if (kind->loss) shape->preference = kind->loss(options);
}

LogPreference task_preference(const TaskKind *kind, const double sums[PREFERENCE_SUMS], double pairs) {
    return (LogPreference){.accuracy = sums[PREFERENCE_CORRECT] / pairs,
                           .reward_chosen = sums[PREFERENCE_CHOSEN] / pairs,
                           .reward_rejected = sums[PREFERENCE_REJECTED] / pairs,
                           .nll = kind->has_nll ? sums[PREFERENCE_NLL] / pairs : NAN};
}

int task_read_config(LlamaConfig *config, bool *new_head, const TaskKind *kind, const char *path, Error *err) {
    *new_head = false;
    int code = llama_config_read(config, path, err);
    return code ? code : kind->adapt_config(config, new_head, path, err);
}

int task_find_origin(Task *task, const Options *options, const TrainData *data, Error *err) {
    const char *folder = task->model_folder;
    bool same = false;
    int code = folder ? import_same_tokenizer(&same, folder, tokenizer_sha256(data->tokenizer), err) : 0;
    task->origin = same ? folder : NULL;
    return code || !task->kind->check_origin ? code : task->kind->check_origin(task, options, data, err);
}

int task_resume(const TaskKind *kind, RunIdentity *identity, const Resume *resume, Error *err) {
    return kind->resume ? kind->resume(identity, resume, err) : 0;
}

int task_prepare(Task *task, Run *run, RunIdentity *identity, const TrainData *data, Llama3 *model, Error *err) {
    return task->kind->prepare ? task->kind->prepare(task, run, identity, data, model, err) : 0;
}

int task_copy_files(const TaskKind *kind, Run *run, const TrainData *data, Error *err) {
    return kind->copy_files ? kind->copy_files(run, data, err) : 0;
}

void task_complete_batch(const Task *task, Llama3 *model, int i) {
    if (task->ref_logprobs.train) ref_logprobs_fill(model, i, task->ref_logprobs.train);
}

void task_close(Task *task) { ref_logprobs_free(&task->ref_logprobs); }
