// The options of train_llama3. One table describes them: the parser, --help, the bounds check and the copy
// that a run keeps of its options (trainer_options.json) are all made from it.
#ifndef LLMC_OPTIONS_OPTIONS_H
#define LLMC_OPTIONS_OPTIONS_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

// Texts point into argv, or are NULL where an option was not given. Choices are indices into
// the list of choices in the table.
typedef struct {
    const char *config, *init_from, *train_data, *val_data, *tokenizer, *output;
    const char *recipe; // of stages: recipe/recipe.h
    bool dry_run;
    int64_t ranks;          // of a dry run; 0: the team's
    const char *train_only; // patterns
    int64_t lora_rank;      // 0: no adapters
    double lora_alpha;
    const char *lora_targets;
    const char *resume; // never, auto or a folder: see options_resume
    int64_t task;       // TASK_*
    bool skip_long;
    int64_t dpo_loss; // DPO_*
    double dpo_beta, label_smoothing, dpo_nll;
    bool dpo_nll_sum, reference_only;
    double epochs; // 0: steps says how long
    bool overwrite, accept_changes;
    int64_t save_every, keep_last, keep_every;
    int64_t steps, batch_size, seq_len, grad_accum, tokens_per_step;
    int64_t average_from, average_every; // updates; from 0: no average
    double lr, final_lr_fraction, weight_decay, beta1, beta2, eps, grad_clip;
    int64_t schedule /* SCHEDULE_* */, warmup_steps, schedule_steps;
    const char *eval_tasks; // glob
    int64_t eval_tasks_every;
    bool eval_only;
    int64_t eval_every, eval_batches, sample_every, sample_tokens, log_every;
    double temperature;
    int64_t max_skipped, on_spike /* ON_SPIKE_* */, checksum_every;
    double spike_deviations;
    int64_t seed;
    int64_t recompute;             // a Recompute
    int64_t activations;           // an ActivationsPlace
    int64_t moments;               // a Moments
    int64_t master_weights;        // a MasterWeights
    int64_t optimizer_state;       // a StatePlace
    int64_t attention;             // an AttentionBy
    const char *matmul_algorithms; // NULL: none
    bool document_mask, save, cuda_graph;
    int64_t threads;    // 0: OMP_NUM_THREADS, or one for each processor
    double peak_tflops; // 0: by the device's name
    int64_t zero, shard_group /* 0: all ranks */, transport /* a TransportChoice */, rank_timeout;
    int64_t grad_reduce; // a GradReduce
    bool overlap;
    const char *trace, *trace_steps; // file; FIRST:LAST or a count
    bool help, version;              // was given and printed; nothing else was checked
    uint64_t given[2];               // bit i: row i of the table came from the command line
} Options;

enum { TASK_PRETRAIN, TASK_SFT, TASK_DPO, TASK_REWARD };
enum { DPO_SIGMOID, DPO_IPO };
typedef enum { RESUME_NEVER, RESUME_AUTO, RESUME_FOLDER } ResumeMode;
enum { ON_SPIKE_LOG, ON_SPIKE_SKIP, ON_SPIKE_ROLLBACK };

// *options = the table's defaults, then the command line, then without --resume the schedule. Every bound, and every
// condition between options, holds afterwards, but for those of options_settle_step. Errors: 2, naming the option, the
// value found and what was expected.
int options_parse(Options *options, int argc, char **argv, Error *err);

const char *options_task_name(const Options *options); // "sft"

ResumeMode options_resume(const Options *options);

// steps where --epochs gives them: of an epoch of so many rows. ranks: of this run. Call it after options_settle_step. Errors: 2.
int options_settle_length(Options *options, uint64_t rows, int ranks, Error *err);

// schedule_steps and warmup_steps where they were not given. kept: the schedule_steps of the checkpoint that
// is resumed, 0 for a new run. options_parse has done it where steps are known and nothing is resumed. Errors: 2.
int options_settle_schedule(Options *options, int64_t kept, Error *err);

// What a run that is resumed was: of how many ranks, and of how many tokens a step. {0}: a new run.
typedef struct {
    int ranks;
    int64_t tokens_per_step;
} StepBefore;

// tokens_per_step and grad_accum, whichever was not given, of a run of so many ranks. On another number of ranks than
// before, and with neither given, a step keeps its tokens. Errors: 2 (what does not divide).
int options_settle_step(Options *options, int ranks, StepBefore before, Error *err);

// The steps that --trace records: from *first to *last.
int options_trace_steps(const Options *options, int64_t *first, int64_t *last, Error *err); // Errors: 2

// How many of so many ranks divide the optimizer's state among them.
int options_shard_group(const Options *options, int ranks);

// Calls report for each option that must be the same on all ranks, with its value as text.
typedef void (*OptionsVisit)(void *context, const char *name, const char *value);
void options_visit_shared(const Options *options, OptionsVisit visit, void *context);

// Sets the error that neither --config nor --init-from was given: with --resume that shows only when there is
// no checkpoint to go on from. Returns 2.
int options_fail_no_model(Error *err);

// ---- the copy that a run keeps

// All options by their names in the table. NULL: out of memory.
cJSON *options_to_json(const Options *options);

// *options = the table's defaults, then the members of json that are options; names that the table lacks are
// passed over. Texts point into json. where: for the message. Errors: 2 (a type or a bound).
int options_from_json(Options *options, const cJSON *json, const char *where, Error *err);

// Writes all options, by their names in the table, as a JSON object to path. Errors: 1.
int options_save(const Options *options, const char *path, Error *err);

// Calls report for each option that changes the result (EFFECT_RESULT in the table) and has another value. other_ranks:
// the run has another number of ranks now, which --batch-size and --grad-accum may make up for.
typedef void (*OptionsReport)(void *context, const char *name, const char *was, const char *is);
void options_compare(const Options *was, const Options *is, bool other_ranks, OptionsReport report, void *context);

// What the table says of the option's effect on a resumed run: "none", "result", "content", "start"; NULL: no
// such option, or unknown.
const char *options_effect(const char *name);

#ifdef __cplusplus
}
#endif
#endif
