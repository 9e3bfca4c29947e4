// A recipe: the stages of a pretraining run, in one JSON file that a person writes.
//
//   {"name": "example", "notes": ["..."],
//    "sources": {"web": {"train": "data/web/train_*.bin", "val": "data/web/val_*.bin", "max_epochs": 2}},
//    "learning_rate": [{"shape": "linear", "from": 0, "to": 3e-4, "steps": 100}, {"shape": "cosine", "to": 3e-6}],
//    "stages": [{"name": "short", "tokens": 252e6,              # its length: "tokens", rounded up to whole steps, or "steps"
//                "seq_len": 4096, "tokens_per_step": 4194304, "batch_size": 1,     # batch_size: rows of a micro-batch
//                "learning_rate": [...],                        # in place of the run's
//                "mixture": [{"source": "web", "weight": 0.5, "weight_at_end": 0.3}, ...],
//                "document_mask": true, "rope_theta": 500000, "rope_scaling": {...} or null,      # as in config.json
//                "average": {"last_steps": 100, "every": 1} or null,
//                "evaluate": {"every": 100, "tasks": ["needle_*"], "tasks_every": 500} or null,
//                "ends_when": {"every": 50, "all": [{"task": "needle_2048", "metric": "exact_match", "at_least": 1}]}}]}
//
// What a stage does not say it takes from the one before: whole members, and of the mixture the weights that it ended with.
// Not taken over are name, length, ends_when and learning_rate: a stage without the latter follows the run's. The first stage
// must say seq_len, tokens_per_step, batch_size and mixture. recipes/recipe.schema.json has every member.
#ifndef LLMC_RECIPE_RECIPE_H
#define LLMC_RECIPE_RECIPE_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "model/config.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { RECIPE_MAX_BYTES = 1 << 20, RECIPE_MAX_STAGES = 256, RECIPE_MAX_SOURCES = 64, RECIPE_MAX_LIST = 64 };

typedef enum { RATE_LINEAR, RATE_COSINE, RATE_CONSTANT } RateShape;

// Update k (from 0) of a piece of n steps has the rate `from` + (`to` - `from`) f((k + 1) / n): the last one exactly `to`.
typedef struct {
    RateShape shape;
    double from, to;
    int64_t length; // tokens or steps; 0, the last only: to the end
} RatePiece;

typedef struct {
    RatePiece *pieces; // [count]; count 0: none
    int count;
    bool in_steps; // lengths are steps, else tokens; an update counts by its last token
} LearningRate;

typedef struct {
    int source; // in Recipe.sources
    double weight, weight_at_end;
} MixtureWeight;

typedef struct {
    const char *task, *metric; // names of an evaluation and of one of its measures
    double at_least;
} EndCondition;

typedef struct {
    const char *name;
    int64_t tokens, steps;           // its length: one is given and the other 0 until recipe_settle
    int64_t first_step, first_token; // where it begins if no stage before it ends early: recipe_settle
    int64_t seq_len, tokens_per_step, batch_size;
    int64_t grad_accum; // recipe_settle
    LearningRate rate;  // within the stage; count 0: the recipe's over the run
    MixtureWeight *mixture;
    int num_weights;
    bool document_mask;
    double rope_theta;     // 0: the model's own
    bool has_rope_scaling; // false: the model's own; true: what follows
    RopeType rope_type;
    double rope_factor, rope_low_freq_factor, rope_high_freq_factor; // ROPE_LLAMA3 only, else 0
    int rope_original_max_position;                                  // ROPE_LLAMA3 only, else 0
    int64_t average_last_steps, average_every;                       // of the weights; 0: none
    int64_t eval_every, tasks_every;                                 // steps; 0: never
    const char **tasks;                                              // patterns of names, [num_tasks]
    int num_tasks;
    EndCondition *conditions; // all must hold for the stage to end early; [num_conditions], 0: it does not
    int num_conditions;
    int64_t check_every; // steps
} Stage;

typedef struct {
    const char *name, *train, *val; // val NULL: none
    double max_epochs;              // 0: no limit
} RecipeSource;

typedef struct {
    char *path, *text; // of the file
    cJSON *json;       // strings point into it
    const char *name;
    RecipeSource *sources;
    int num_sources;
    LearningRate rate; // over the run; count 0: every stage has its own
    Stage *stages;
    int num_stages;
    int64_t total_steps, total_tokens; // recipe_settle: if no stage ends early
    void *memory;                      // all that is allocated beside it
} Recipe;

// Reads the file and checks all that needs neither data nor model nor ranks. Errors: 2 ("PATH:LINE: stages[2].mixture[0].weight:
// expected > 0, found -1"), 1. *out is set on success only.
int recipe_open(Recipe **out, const char *path, Error *err);
void recipe_close(Recipe *recipe); // NULL is allowed

// Settles lengths, beginnings and grad_accum of all stages for so many ranks, and checks that each one's tokens_per_step
// divides among them, that its rows are not longer than the model's max_position_embeddings (0: not known, not checked)
// unless it scales RoPE, and that recipe_block is an int. Errors: 2.
int recipe_settle(Recipe *recipe, int ranks, int max_position_embeddings, Error *err);

// The learning rate of an update after recipe_settle: the stage's number, the update's within the stage and the run, and the
// run's tokens before it, all from 0. Beyond the end of all pieces it stays at the last one's `to`.
double recipe_rate(const Recipe *recipe, int stage, int64_t step_in_stage, int64_t step, int64_t tokens);

// The stage's update, from 0, with which the piece of its learning rate ends (the last within the piece); -1: not in the stage.
int64_t recipe_piece_end(const Recipe *recipe, int stage, int piece);

// The stage's sources as the mixture wants them: weights [num_sources] = the shares at its beginning, weights_at_end
// [num_sources] = those at its end; each sums to 1, and a source that the stage leaves out has 0.
void recipe_shares(const Recipe *recipe, int stage, double *weights, double *weights_at_end);

int64_t recipe_longest_row(const Recipe *recipe);

// The least common multiple of all stages' seq_len, as which the mixture cuts its sources.
int recipe_block(const Recipe *recipe);

// text = where the recipe differs from `was`, an older one's JSON: "stages[1].steps: 1000 -> 2000; ...", cut to capacity. Passed
// over is what does not change the run's result (names, notes, val, evaluate), what the data say themselves (train), and with
// other_ranks, a run on another number of ranks than before, batch_size. Returns the number of differences.
int recipe_compare(const cJSON *was, const Recipe *is, bool other_ranks, char *text, size_t capacity);

// The recipe at that path on so many ranks for programs that are not written in C: text = a JSON object with "name", "sources"
// (names) and "stages", each with "name", "first_step", "steps", "first_token", "tokens", "seq_len", "tokens_per_step",
// "batch_size", "grad_accum", "may_end_early", "rates" ([update of the stage, rate] where it bends and evenly between) and
// "shares" (of the sources at both ends). Errors: 2 (the recipe), 1.
int recipe_timeline_text(char *text, size_t capacity, const char *path, int ranks, Error *err);

#ifdef __cplusplus
}
#endif
#endif
