// The tasks (--task pretrain, sft, dpo, reward): one table says in what they differ, and nothing else asks which task it is.
#ifndef LLMC_TRAIN_TASK_H
#define LLMC_TRAIN_TASK_H

#include <stdbool.h>

#include "model/llama3_create.h"
#include "train/ref_logprobs.h"
#include "train/resume.h"
#include "train/run.h"
#include "train/train_data.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct TaskKind TaskKind; // a row of the table

typedef struct {
    const TaskKind *kind;
    bool new_head;            // the model gets a reward head, which the weights it begins with lack
    const char *model_folder; // of the model that training begins with or resumes; NULL: --config describes a new one
    const char *origin;       // model_folder, if that model has the data's tokenizer; else NULL
    RefLogprobs ref_logprobs; // of the answers that the loss compares; {NULL}: it needs none
} Task;

const TaskKind *task_kind(const Options *options);

const char *task_rows(const TaskKind *kind); // what the rows of its data are called; NULL: documents
bool task_compares(const TaskKind *kind);    // whether its data are comparisons of answers
LoaderSpec task_loader(const Options *options, const Team *team); // of the training data on this rank

// Sets (=) the loss that llama3_loss computes: next token (pretrain, sft), or preference among answers (dpo, reward).
void task_set_loss(RunShape *shape, const Options *options);

// The means over `pairs` pairs, of their sums.
LogPreference task_preference(const TaskKind *kind, const double sums[PREFERENCE_SUMS], double pairs);

// *config = the one at path; where a reward model is trained from a language model, with a reward head (*new_head). Errors: 2 (a
// reward model where the task wants a language model; llama_config_read's), 1.
int task_read_config(LlamaConfig *config, bool *new_head, const TaskKind *kind, const char *path, Error *err);

// Sets task->origin. Errors: 2 (finetuning data of another tokenizer than the model's), 1.
int task_find_origin(Task *task, const Options *options, const TrainData *data, Error *err);

// Takes from the resumed checkpoint what the task has to know again: the reference model's fingerprint. Errors: 2.
int task_resume(const TaskKind *kind, RunIdentity *identity, const Resume *resume, Error *err);

// Computes what the task needs before the first step, with the weights that training begins with. Collective. Errors: 2, 1.
int task_prepare(Task *task, Run *run, RunIdentity *identity, const TrainData *data, Llama3 *model, Error *err);

// Copies the files on chats and padding, which go into checkpoints, from the data's folder into the output folder. Errors: 2, 1.
int task_copy_files(const TaskKind *kind, Run *run, const TrainData *data, Error *err);

// Sets what the loss needs besides micro-batch i, which was just fetched from the training data.
void task_complete_batch(const Task *task, Llama3 *model, int i);

void task_close(Task *task);

#ifdef __cplusplus
}
#endif
#endif
