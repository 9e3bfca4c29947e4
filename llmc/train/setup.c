#include "train/setup.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/path.h"
#include "checkpoint/checkpoint.h"
#include "device/device.h"
#include "device/matmul.h"
#include "device/threads.h"
#include "loader/shard.h"
#include "model/llama3_weights.h"
#include "ranks/watchdog.h"
#include "recipe/flops.h"
#include "run/import.h"
#include "train/agree.h"
#include "train/base_model.h"
#include "train/run_folder.h"
#include "train/stages.h"
#include "train/summary.h"

// ---- the machine

static int set_threads(Trainer *t, Error *err) {
    const int ranks_here = t->run.team.size > 1 ? world_local_size(t->run.team.world) : 1;
    int code = threads_set((int)t->run.options.threads, ranks_here, err);
    t->state.identity.threads = threads_used();
    return code;
}

static void find_device(RunIdentity *identity, double *peak_flops) {
    int device;
    struct cudaDeviceProp properties;
    cuda_check(cudaGetDevice(&device));
    cuda_check(cudaGetDeviceProperties(&properties, device));
    *peak_flops = flops_peak_of_device(properties.name);
    snprintf(identity->device, sizeof identity->device, "%.127s", properties.name);
}

// ---- configuration and data

// Rank 0 has the output folder and chooses the checkpoint.
static int open_folder(Trainer *t, Error *err) {
    if (!team_leads(&t->run.team)) return 0;
    int code = run_dir_open(&t->run.dir, t->run.options.output, err);
    return code ? code : resume_find(&t->resume, &t->run.options, err);
}

// The run's length with these data; a resumed run keeps its schedule.
static int settle_length(Run *run, const TrainData *data, const Resume *resume, Error *err) {
    const int64_t kept = resume->folder[0] ? resume->options.schedule_steps : 0;
    if (run->options.recipe) return options_settle_schedule(&run->options, 0, err); // recipes have their own
    int code = options_settle_length(&run->options, loader_num_windows(data->train), run->team.size, err);
    run->stage_end = run->options.steps;
    return code ? code : options_settle_schedule(&run->options, kept, err);
}

// The configuration is the checkpoint's, or that of --init-from, or --config's.
static int read_config(Trainer *t, Error *err) {
    char path[PATH_MAX];
    const Options *o = &t->run.options;
    int code = base_model_find(&t->state.identity, o, &t->resume, err);
    if (code) return code;
    const char *folder = o->lora_rank          ? t->state.identity.base_model
                         : t->resume.folder[0] ? t->resume.folder
                                               : o->init_from;
    t->task = (Task){.kind = task_kind(o), .model_folder = folder};
    if (!folder && !o->config) return options_fail_no_model(err);
    code = folder ? path_join(path, folder, "config.json", err) : 0;
    return code ? code
                : task_read_config(&t->run.config, &t->task.new_head, t->task.kind, folder ? path : o->config, err);
}

static int open_data(Trainer *t, Error *err) {
    const Run *run = &t->run;
    const LoaderSpec spec = task_loader(&run->options, &run->team);
    int code = train_data_open(&t->data, &run->options, t->state.place.recipe, &spec, t->task.model_folder,
                               run->config.vocab_size, err);
    if (code) return code;
    t->state.identity.train_data = train_data_fingerprint(&t->data);
    t->state.identity.tokenizer_sha256 = tokenizer_sha256(t->data.tokenizer);
    t->state.identity.ranks = run->team.size;
    return 0;
}

static int open_eval_tasks(Trainer *t, Error *err) {
    const Options *o = &t->run.options;
    if (!o->eval_tasks || !team_leads(&t->run.team)) return 0;
    return evaltasks_open(&t->eval_tasks, o->eval_tasks, (int)o->seq_len, t->run.config.vocab_size,
                          tokenizer_sha256(t->data.tokenizer), err);
}

// The data determine the tokens that begin and end a document; with `keep` a model's own end tokens stay beside them.
static int take_document_ids(LlamaConfig *config, bool keep, const TrainData *data, Error *err) {
    return import_document_ids(config, keep, train_data_bos_id(data), train_data_eos_id(data), err);
}

static int check_sampling(const Options *options, const TrainData *data, Error *err) {
    if (train_data_bos_id(data) == SHARD_NO_ID && options->sample_every)
        return fail_input(err, "--sample-every %lld: expected shards with a begin-of-document token, found none in %s",
                          (long long)options->sample_every, data->train_shard);
    return 0;
}

static int check_graph(const Options *options, int ranks, Error *err) {
    if (!options->cuda_graph || ranks == 1) return 0;
    return fail_input(err, "--cuda-graph on: expected one rank, found %d", ranks);
}

// ---- is the checkpoint that is resumed one of this run?

static int check_config(const Trainer *t, Error *err) {
    LlamaConfig given;
    const char *path = t->run.options.config;
    if (!path) return 0;
    int code = llama_config_read(&given, path, err);
    if (!code) code = take_document_ids(&given, false, &t->data, err);
    if (!code) stages_configure(&given, &t->state.place);
    return code ? code : resume_check_config(&t->resume, path, &given, &t->run.config, err);
}

static int check_resume(Trainer *t, Error *err) {
    const Options *o = &t->run.options;
    if (!t->resume.folder[0]) return 0;
    int code = check_config(t, err);
    if (!code) code = resume_check(&t->resume, o, &t->state.identity, t->state.place.recipe, err);
    if (!code) code = task_resume(t->task.kind, &t->state.identity, &t->resume, err);
    return code ? code : train_state_take(&t->state, &t->resume, o, err);
}

// Each rank does this for itself, except where a call is collective.
static int open_inputs(Trainer *t, Error *err) {
    Options *o = &t->run.options;
    int code = agree_on_resume(&t->run.team, &t->resume, err); // collective
    if (!code && !o->recipe) code = options_settle_step(o, t->run.team.size, resume_step_before(&t->resume), err);
    if (!code) code = read_config(t, err);
    if (!code) code = stages_open(t, err);
    if (!code) code = open_data(t, err);
    if (!code) code = settle_length(&t->run, &t->data, &t->resume, err);
    if (!code) code = open_eval_tasks(t, err);
    if (!code) code = task_find_origin(&t->task, o, &t->data, err);
    if (!code) code = take_document_ids(&t->run.config, t->task.origin != NULL, &t->data, err);
    if (!code) code = check_sampling(o, &t->data, err);
    if (!code) code = check_graph(o, t->run.team.size, err);
    if (!code) code = check_resume(t, err);
    return code ? code : stages_begin(t, err);
}

// ---- the model

static int create_model(Trainer *t, Error *err) {
    const Options *o = &t->run.options;
    RunShape shape = run_shape(&t->run);
    RowShape *rows = stages_rows(t, &shape.num_rows);
    LlamaConfig longest = t->run.config;
    if (rows) longest.max_position_embeddings = (int)recipe_longest_row(t->state.place.recipe);
    shape.rows = rows;
    shape.average = shape.average || stages_average(t->state.place.recipe);
    task_set_loss(&shape, o);
    int code = 0;
    if (o->matmul_algorithms) code = matmul_use_algorithms(o->matmul_algorithms, t->run.team.size == 1, err);
    if (!code) code = llama3_create(&t->model, rows ? &longest : &t->run.config, &shape, err);
    free(rows);
    if (!code) code = guard_open(&t->guard, &t->run, &t->state, t->model, &t->saver, err);
    if (code || !o->sample_every || !team_leads(&t->run.team)) return code;
    return sample_open(&t->sampling, t->model, (int)o->sample_tokens, err);
}

static int load(Trainer *t, Error *err) {
    const Options *o = &t->run.options;
    const uint64_t seed = (uint64_t)o->seed;
    if (o->lora_rank) return base_model_load(&t->state.identity, t->model, t->task.new_head, o, &t->resume, err);
    if (t->resume.folder[0]) return checkpoint_read_training(t->resume.folder, t->model, err);
    if (t->task.new_head) return checkpoint_read_language_model(o->init_from, t->model, seed, err);
    if (o->init_from) return checkpoint_read_weights(o->init_from, t->model, err);
    llama3_init_weights(t->model, seed);
    return 0;
}

int train_load(Trainer *t, Error *err) {
    const Team *team = &t->run.team;
    progress_begin(&t->run.progress, stdout, t->run.options.log_every);
    int code = team_agree(team, load(t, err), err);
    if (!code) code = agree_on_weights(team, t->model, t->guard.checksums, "weights to begin with", err);
    return code ? code : task_prepare(&t->task, &t->run, &t->state.identity, &t->data, t->model, err);
}

int train_begin(Trainer *t, Error *err) {
    const Team *team = &t->run.team;
    int code = team_leads(team) ? run_folder_begin(&t->run, &t->resume, &t->state, &t->data, &t->task, err) : 0;
    code = team_follow(team, code, err);
    t->pace.began = clock_seconds();
    return code;
}

// ---- the whole

static int start_watching(Run *run, Error *err) {
    const WatchdogSpec spec = {.folder = run->options.output,
                               .rank = run->team.rank,
                               .size = run->team.size,
                               .timeout = (double)run->options.rank_timeout,
                               .world = run->team.world};
    run->watched = run->team.size > 1;
    watchdog_phase("loading");
    return watchdog_start(&spec, err);
}

// Between the barriers no rank watches another, so none is given up for ending; after them none writes into the folder.
static void stop_watching(const Run *run) {
    if (!run->watched) return;
    comm_barrier(run->team.comm);
    watchdog_stop();
    comm_barrier(run->team.comm);
}

static int open_parts(Trainer *t, Error *err) {
    const Team *team = &t->run.team;
    int code = team_agree(team, set_threads(t, err), err);
    if (!code) code = team_follow(team, open_folder(t, err), err);
    if (!code) code = team_agree(team, start_watching(&t->run, err), err);
    if (!code) code = team_agree(team, open_inputs(t, err), err);
    if (!code) code = agree_on_data(&t->run, &t->data, &t->state, err);
    if (!code) code = run_divide(&t->run, err);
    if (!code) code = team_agree(team, create_model(t, err), err);
    if (!code) code = team_agree(team, saver_open(&t->saver, &t->run, &t->state, t->model, err), err);
    return code ? code : pace_open(&t->pace, &t->run.options, t->state.step, err);
}

int train_setup(Trainer **out, const Options *options, const Team *team, Error *err) {
    Trainer *t = calloc(1, sizeof *t);
    if (!t) return fail_fault(err, "out of memory"); // so early and so small that it needs no agreement among the ranks
    t->run.options = *options;
    t->run.team = team ? *team : (Team){.size = 1};
    t->run.log.fd = -1;
    t->run.dir.lock.fd = -1;
    int code = open_parts(t, err);
    if (code) {
        train_close(t);
        return code;
    }
    const Options *o = &t->run.options;
    t->schedule = (Schedule){o->lr, o->warmup_steps, o->schedule_steps, o->final_lr_fraction, (int)o->schedule};
    find_device(&t->state.identity, &t->pace.peak_flops);
    if (o->peak_tflops > 0) t->pace.peak_flops = 1e12 * o->peak_tflops;
    stages_pace(t);
    summary_print(t);
    *out = t;
    return 0;
}

bool train_was_done(const Trainer *t) {
    if (t->state.step == 0 || t->state.step < t->run.options.steps || t->state.due) return false;
    printf("done: %s has all of --steps %lld\n", t->resume.folder, (long long)t->run.options.steps);
    return true;
}

Llama3 *train_model(const Trainer *t) { return t->model; }

void train_close(Trainer *t) {
    if (!t) return;
    saver_close(&t->saver);
    if (t->run.progress.out) progress_end(&t->run.progress);
    log_close(&t->run.log);
    sample_close(&t->sampling);
    guard_close(&t->guard);
    llama3_destroy(t->model);
    evaltasks_close(t->eval_tasks);
    train_data_close(&t->data);
    task_close(&t->task);
    stage_place_free(&t->state.place);
    resume_free(&t->resume);
    stop_watching(&t->run);
    run_dir_close(&t->run.dir);
    free(t);
}
