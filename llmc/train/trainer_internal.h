// What the files of the trainer share: setup.c (parts, summary), train_data.c (data and tokenizer),
// run_folder.c (weights in, output folder), observe.c (the step and what is observed after it), guard.c
// (steps that are not like the others), task.c (rows and losses of finetuning), saver.c (checkpoints),
// train_state.c (what they hold besides weights and moments), agree.c (what all ranks agree on).
#ifndef LLMC_TRAIN_TRAINER_INTERNAL_H
#define LLMC_TRAIN_TRAINER_INTERNAL_H

#include <limits.h>
#include <stdint.h>

#include "loader/loader.h"
#include "loader/tokenizer.h"
#include "generate/sampler.h"
#include "generate/decoder.h"
#include "eval/tasks.h"
#include "model/llama3.h"
#include "run/log.h"
#include "run/progress.h"
#include "train/resume.h"
#include "train/observe.h"
#include "train/guard.h"
#include "train/sample.h"
#include "train/saver.h"
#include "train/task.h"
#include "train/train_data.h"
#include "train/train_state.h"
#include "train/run.h"
#include "run/run_dir.h"
#include "recipe/schedule.h"
#include "recipe/spike.h"
#include "ranks/team.h"
#include "train/setup.h"

struct Trainer {
    ProgressState shown; // of the last step
    Run run;
    TrainState state;
    TrainData data;
    Task task;
    Saver saver;
    Sampling sampling;
    Guard guard;
    StepReport report;
    Pace pace;
    Timeline timeline;
    Resume resume;
    EvalTasks *tasks; // rank 0's; NULL without --eval-tasks
    Llama3 *model;
    Schedule schedule;
    bool made; // the last call of trainer_step made a step
};

int64_t trainer_tokens(const Trainer *t); // of all steps up to now

// ---- observe.c

int trainer_observations(const Trainer *t); // the LogKinds that the options ask for

void trainer_close_timeline(Trainer *t); // writes it if it is begun and not written; a failure is a warning

// ---- agree.c

// Ranks that divide optimizer state among them.
int trainer_shard_group(const Options *options, int ranks);
void trainer_describe_ranks(char *text, size_t capacity, const Options *options, int ranks);

// Makes the groups of --zero and --shard-group. Errors: 2, 1.
int trainer_divide(Trainer *t, Error *err);

// Gives the checkpoint that rank 0 has chosen to all. Errors: 2, 1, each rank for itself.
int trainer_share_resume(Trainer *t, Error *err);

// Refuses (2) data, tokenizers, configurations and checkpoints that are not the same on all ranks.
int trainer_compare_data(const Trainer *t, Error *err);

// Weights that are not. Errors: 1, naming rank and tensor; when: what stands in front of it.
int trainer_compare_weights(Trainer *t, const char *when, Error *err);

// At a step's beginning: *num_targets of this rank becomes that of all, an error of one rank (code) that of all, a signal
// to one a signal to all.
int trainer_agree_on_step(Trainer *t, int code, int64_t *num_targets, Error *err);

void trainer_agree_on_stopping(Trainer *t); // before what takes long
int trainer_stop_signal(const Trainer *t);  // 0: none came

// ---- train_state.c

const char *state_precision(void);                           // of this build: "bf16"
void state_fingerprint(char text[17], uint64_t fingerprint); // as hexadecimal digits

// Text of trainer/state.json, to be freed by cJSON_free. NULL: out of memory.
char *trainer_state_text(const Trainer *t);

// Steps, positions and statistics of the checkpoint that is resumed. Errors: 2 (a member missing or
// mistyped).
int trainer_take_state(Trainer *t, Error *err);

// How many samples the mean over steps has in a checkpoint's state; 0 where it says nothing, or the run keeps none.
int trainer_take_average(Trainer *t, const Resume *resume, Error *err);

void trainer_print_resume(const Trainer *t);

// ---- saver.c

int trainer_prepare_saving(Trainer *t, Error *err); // memory and the thread. Errors: 1

// After a step: reports a write that has ended, and begins one where it is due. A failure is a warning.
void trainer_checkpoint(Trainer *t);

// *content, but for the snapshot or model; store and state are the texts it points to, state to be freed. Errors: 1, 2.
int trainer_describe_checkpoint(const Trainer *t, CheckpointContent *content, char store[PATH_MAX], char **state,
                                Error *err);

// What became of a write: log and terminal.
void trainer_report_save(Trainer *t, const WriterResult *result);

void trainer_wait_saving(Trainer *t); // for a write that is running; reports it
void trainer_end_saving(Trainer *t);  // waits for a write that is running and reports it

// ---- trainer_parts.c: checkpoints of many ranks. Collective but for trainer_say_saving

bool trainer_writes_part(const Trainer *t); // whether this rank writes one

// Whether this rank's part is being written, or has failed; and of how many ranks that is so: at each step.
void trainer_say_saving(Trainer *t, int64_t *writing, int64_t *failed);
void trainer_hear_saving(Trainer *t, int64_t writing, int64_t failed);

void trainer_begin_parts(Trainer *t);            // of a checkpoint of this step; a failure is a warning
void trainer_wait_parts(Trainer *t);             // until no checkpoint is being written; then all know saved_step
int trainer_write_parts(Trainer *t, Error *err); // the last checkpoint, while all wait. Errors: 1, 2

// ---- guard.c

// The loss above which the coming step's update is not made.
float trainer_max_loss(const Trainer *t);

// Looks at the step just done: counts and logs an update that was not made, and a loss spike. Errors: 1 after
// --max-skipped steps in a row that were not finite, after too many rollbacks, and of a rollback itself.
// *rolled_back: the trainer is now where a checkpoint was.
int trainer_guard(Trainer *t, bool *rolled_back, Error *err);

// Logs the weights' checksum. Errors: 1 where the ranks' weights are not the same.
int trainer_checksum(Trainer *t, Error *err);

// ---- task.c

bool trainer_compares(const Options *options); // the task's data are comparisons
LoaderKind trainer_loader_kind(const Options *options);
PreferenceLoss trainer_preference_loss(const Options *options);

// *config = the one at path, or that of the reward model which the language model there becomes (*new_head). Errors: 2 (a
// reward model where the task wants a language model; llama_config_read's), 1.
int trainer_take_config(LlamaConfig *config, bool *new_head, const Options *options, const char *path, Error *err);

LogPreference trainer_preference(const Options *options, const double sums[PREFERENCE_SUMS], double pairs); // means

// With the weights that training begins with: reads the reference's log-probabilities, or computes and keeps them; of a
// resumed run only reads them. Collective. Errors: 2, 1.
int trainer_prepare_reference(Trainer *t, Error *err);

// Prints how many rows of a set were left out as too long, and the first of them; nothing where none was. option: that names
// the set.
void trainer_tell_skipped(const Loader *loader, const char *option, int T);

// ---- train_data.c

LoaderSpec trainer_loader_spec(const Trainer *t); // of the training data on this rank

// The tokenizer, unless shards of llm.c are trained on without one, and the data of --train-data and --val-data. Errors: 2, 1.
int trainer_open_data(Trainer *t, Error *err);

// ---- base_model.c

int trainer_find_base(Trainer *t, Error *err);      // with --lora-rank: the model that is adapted. Errors: 2
const char *trainer_model_folder(const Trainer *t); // of configuration and tokenizer; NULL: --config's
int trainer_load_adapters(Trainer *t, Error *err);  // the base, and adapters: drawn, or the checkpoint's. Errors: 2, 1

// ---- trainer_tasks.c

int trainer_open_tasks(Trainer *t, Error *err); // the files of --eval-tasks, if it was given. Errors: 2, 1
bool trainer_tasks_due(const Trainer *t);       // after this step, if there are any
int trainer_show_tasks(Trainer *t, Error *err); // scores, log, terminal; what a signal cuts short is owed. Errors: 1

#endif
