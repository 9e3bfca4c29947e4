#include "train/dry_run.h"

#include <limits.h>
#include <stdio.h>

#include "base/path.h"
#include "model/llama3_create.h"
#include "recipe/flops.h"
#include "recipe/recipe.h"
#include "run/progress.h"
#include "train/recipe_data.h"
#include "train/recipe_tables.h"
#include "train/run.h"
#include "train/stages.h"

static const double UTILISATION = 0.4; // of the peak rate: assumed; the paper reports 0.38 to 0.43 (table 4)
static const double GIB = 1073741824.0;

typedef struct {
    int ranks;
    Run run; // its options are those of the stage that is looked at
    Recipe *recipe;
    ParameterTable table;
    double flops; // of the stages that were looked at
} DryRun;

// ---- FLOPs, time and memory

static bool has_model(const DryRun *d) { return d->run.options.config || d->run.options.init_from; }

static int read_config(DryRun *d, Error *err) {
    char path[PATH_MAX];
    const Options *o = &d->run.options;
    int code = o->init_from ? path_join(path, o->init_from, "config.json", err) : 0;
    return code ? code : llama_config_read(&d->run.config, o->init_from ? path : o->config, err);
}

static int build_table(DryRun *d, Error *err) {
    const Options *o = &d->run.options;
    const TrainedPart part = run_shape(&d->run).part;
    const int shards = options_shard_group(o, d->ranks);
    int code = run_check_shard_group(o, d->ranks, err);
    d->run.parallel = (Parallel){.zero = (int)o->zero,
                                 .shards = shards,
                                 .replicas = d->ranks / shards,
                                 .grad_reduce = (GradReduce)o->grad_reduce};
    return code ? code : parameter_table_build(&d->table, &d->run.config, shards, &part, err);
}

static void print_flops(const DryRun *d, const char *name, double flops) {
    char time[16] = "-";
    const double rate = UTILISATION * 1e12 * d->run.options.peak_tflops * d->ranks;
    if (rate > 0) progress_span(time, sizeof time, flops / rate);
    recipe_print_name(name);
    printf("%9.3g  %7s", flops, time);
}

static size_t plan_bytes(const MemoryPlan *plan) {
    size_t bytes = plan->library_bytes;
    for (int kind = 0; kind < MEMORY_KINDS; kind++) bytes += plan->arenas[kind].bytes;
    return bytes;
}

static void set_stage(DryRun *d, const Stage *s) {
    Options *o = &d->run.options;
    o->seq_len = s->seq_len;
    o->batch_size = s->batch_size;
    o->grad_accum = s->grad_accum;
}

static int print_needs(DryRun *d, const Stage *s, Error *err) {
    MemoryPlan plan;
    set_stage(d, s);
    const RunShape shape = run_shape(&d->run);
    int code = llama3_plan_memory(&plan, &d->run.config, &shape, err);
    if (code) return code;
    const double flops = (double)s->tokens * flops_per_token(&d->run.config, &d->table, (int)s->seq_len);
    d->flops += flops;
    print_flops(d, s->name, flops);
    printf("  %10.2f  %11.2f\n", (double)plan_bytes(&plan) / GIB, (double)plan.arenas[MEMORY_ACTIVATIONS].bytes / GIB);
    return 0;
}

static int print_model(DryRun *d, Error *err) {
    const double peak = d->run.options.peak_tflops;
    printf("\n%-20s%9s  %7s  %10s  %11s\n", "needs", "FLOPs", "time", "memory GiB", "activations");
    int code = 0;
    for (int i = 0; !code && i < d->recipe->num_stages; i++) code = print_needs(d, &d->recipe->stages[i], err);
    if (code) return code;
    print_flops(d, "all", d->flops);
    printf("\n");
    if (peak > 0)
        printf("The time assumes %.0f %% of --peak-tflops %g on each of the ranks (%d); it is not measured.\n",
               100 * UTILISATION, peak, d->ranks);
    else
        printf("The time is not known: --peak-tflops X says what a rank can do.\n");
    return 0;
}

// The most that any stage needs of each kind of memory.
static int print_plan(DryRun *d, Error *err) {
    RowShape rows[RECIPE_MAX_STAGES];
    MemoryPlan plan;
    for (int i = 0; i < d->recipe->num_stages; i++) {
        const Stage *s = &d->recipe->stages[i];
        rows[i] = (RowShape){(int)s->batch_size, (int)s->seq_len, (int)s->grad_accum};
    }
    set_stage(d, d->recipe->stages);
    RunShape shape = run_shape(&d->run);
    shape.rows = rows;
    shape.num_rows = d->recipe->num_stages;
    int code = llama3_plan_memory(&plan, &d->run.config, &shape, err);
    if (code) return code;
    printf("\none plan for all stages\n");
    memory_print(&plan, stdout);
    return 0;
}

static int show_model(DryRun *d, Error *err) {
    int code = build_table(d, err);
    if (!code) code = print_model(d, err);
    if (!code) code = print_plan(d, err);
    parameter_table_free(&d->table);
    return code;
}

// ---- the whole

static int open_recipe(DryRun *d, Error *err) {
    int code = has_model(d) ? read_config(d, err) : 0;
    if (!code) code = recipe_open(&d->recipe, d->run.options.recipe, err);
    if (!code) code = recipe_settle(d->recipe, d->ranks, d->run.config.max_position_embeddings, err);
    if (code) return code;
    const int longest = (int)recipe_longest_row(d->recipe);
    if (d->run.config.max_position_embeddings < longest) d->run.config.max_position_embeddings = longest;
    if (stages_average(d->recipe)) d->run.options.average_from = 1;
    return 0;
}

static int show(DryRun *d, Error *err) {
    int code = open_recipe(d, err);
    if (code) return code;
    printf("recipe    %s, %s, on %d rank%s\n", d->recipe->name, d->run.options.recipe, d->ranks,
           d->ranks > 1 ? "s" : "");
    recipe_print_stages(d->recipe);
    recipe_print_mixtures(d->recipe);
    recipe_print_rest(d->recipe);
    if (has_model(d))
        code = show_model(d, err);
    else
        printf("\nWhat memory, FLOPs and time it takes is not known without --config FILE.\n");
    return code ? code : recipe_print_data(d->recipe, (uint64_t)d->run.options.seed, d->run.config.vocab_size, err);
}

int dry_run(const Options *options, const Team *team, Error *err) {
    DryRun d = {.run = {.options = *options, .team = *team}};
    d.ranks = options->ranks ? (int)options->ranks : team->size;
    int code = team_leads(team) ? show(&d, err) : 0;
    recipe_close(d.recipe);
    return team_follow(team, code, err);
}
