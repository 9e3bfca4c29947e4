// Opening and closing a run: configuration, data, tokenizer, output folder, model; what is printed of them.
#include "train/trainer_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/path.h"
#include "base/version.h"
#include "device/device.h"
#include "device/threads.h"
#include "loader/shard.h"
#include "ranks/watchdog.h"
#include "recipe/flops.h"
#include "run/import.h"
#include "train/evaluate.h"

static int set_threads(Trainer *t, Error *err) {
    const int ranks_here = t->run.team.size > 1 ? world_local_size(t->run.team.world) : 1;
    int code = threads_set((int)t->run.options.threads, ranks_here, err);
    t->state.identity.threads = threads_used();
    return code;
}

// Rank 0 has the output folder and chooses the checkpoint.
static int open_folder(Trainer *t, Error *err) {
    if (!team_leads(&t->run.team)) return 0;
    int code = run_dir_open(&t->run.dir, t->run.options.output, err);
    return code ? code : resume_find(&t->resume, &t->run.options, err);
}

// What the options mean for this number of ranks.
static int settle_step(Trainer *t, Error *err) {
    return options_settle_step(&t->run.options, t->run.team.size, resume_step_before(&t->resume), err);
}

// How long the run is with these data, and behind that checkpoint.
static int settle_length(Trainer *t, Error *err) {
    Options *o = &t->run.options;
    const int64_t kept = t->resume.folder[0] ? t->resume.options.schedule_steps : 0;
    int code = options_settle_length(o, loader_num_windows(t->data.train), t->run.team.size, err);
    return code ? code : options_settle_schedule(o, kept, err);
}

static int read_model_config(Trainer *t, const char *path, Error *err) {
    return trainer_take_config(&t->run.config, &t->task.new_head, &t->run.options, path, err);
}

// The model is the checkpoint's, or that of the weights to begin with, or --config's.
static int read_config(Trainer *t, Error *err) {
    char path[PATH_MAX];
    int code = trainer_find_base(t, err);
    if (code) return code;
    const char *folder = trainer_model_folder(t);
    if (!folder && !t->run.options.config) return options_fail_no_model(err);
    if (!folder) return read_model_config(t, t->run.options.config, err);
    code = path_join(path, folder, "config.json", err);
    return code ? code : read_model_config(t, path, err);
}

// The tokens that begin and end a document are those of the data the model is trained on; a model that was trained
// before keeps its own end tokens besides.
static int take_document_ids(LlamaConfig *config, bool keep, const Loader *train, Error *err) {
    return import_document_ids(config, keep, loader_bos_id(train), loader_eos_id(train), err);
}

// Where the model comes from that training goes on with, if it has the data's tokenizer.
static int find_origin(Trainer *t, Error *err) {
    const char *folder = trainer_model_folder(t);
    bool same = false;
    int code = folder ? import_same_tokenizer(&same, folder, tokenizer_sha256(t->data.tokenizer), err) : 0;
    t->task.origin = same ? folder : NULL;
    if (code || same || t->run.options.task == TASK_PRETRAIN) return code;
    return fail_input(err,
                      "%s/tokenizer.json: not the tokenizer that %s was prepared with: --task %s needs the model's own",
                      folder, t->data.train_shard, options_task_name(&t->run.options));
}

static int check_sampling(const Trainer *t, Error *err) {
    if (loader_bos_id(t->data.train) == SHARD_NO_ID && t->run.options.sample_every)
        return fail_input(err, "--sample-every %lld: expected shards with a begin-of-document token, found none in %s",
                          (long long)t->run.options.sample_every, t->data.train_shard);
    return 0;
}

// Is the checkpoint that is resumed one of this run?
static int check_resume(Trainer *t, Error *err) {
    LlamaConfig given;
    ResumeIdentity identity = {.ranks = t->run.team.size,
                               .train_data = loader_fingerprint(t->data.train),
                               .tokenizer_sha256 = tokenizer_sha256(t->data.tokenizer),
                               .config = &t->run.config};
    if (!t->resume.folder[0]) return 0;
    if (t->run.options.config) {
        int code = llama_config_read(&given, t->run.options.config, err);
        if (code) return code;
        code = take_document_ids(&given, false, t->data.train, err);
        if (code) return code;
        identity.given_config = &given;
    }
    int code = resume_check(&t->resume, &t->run.options, &identity, err);
    return code ? code : trainer_take_state(t, err);
}

static int create_model(Trainer *t, Error *err) {
    const Options *o = &t->run.options;
    RunShape shape = {.B = (int)o->batch_size,
                      .T = (int)o->seq_len,
                      .micro_batches = (int)o->grad_accum,
                      .training = true,
                      .recompute = o->recompute == RECOMPUTE_BLOCK,
                      .comparisons = trainer_compares(o),
                      .preference = trainer_preference_loss(o),
                      .parallel = t->run.parallel,
                      .average = o->average_from > 0,
                      .part = {o->train_only, (int)o->lora_rank, o->lora_alpha, o->lora_targets}};
    int code = llama3_create(&t->model, &t->run.config, &shape, err);
    if (code) return code;
    t->guard.checksums = calloc(2 * (size_t)llama3_parameters(t->model)->count, sizeof *t->guard.checksums);
    if (!t->guard.checksums) return fail_fault(err, "out of memory");
    if (!o->sample_every || !team_leads(&t->run.team)) return 0;
    t->sampling.ids = malloc((size_t)o->sample_tokens * sizeof *t->sampling.ids);
    if (!t->sampling.ids) return fail_fault(err, "out of memory");
    code = decoder_create(&t->sampling.decoder, t->model, 1, (int)o->sample_tokens, err);
    return code ? code : sampler_create(&t->sampling.sampler, t->run.config.vocab_size, err);
}

// Appends the processor's name, as the system tells it, in brackets.
static void append_processor(char *text, size_t capacity) {
    char line[256];
    FILE *file = fopen("/proc/cpuinfo", "re");
    while (file && fgets(line, sizeof line, file)) {
        const char *value = strstr(line, ": ");
        if (strncmp(line, "model name", 10) != 0 || !value) continue;
        size_t length = strlen(text);
        snprintf(text + length, capacity - length, " (%.*s)", (int)strcspn(value + 2, "\n"), value + 2);
        break;
    }
    if (file) fclose(file);
}

static void find_device(Trainer *t) {
    int device;
    struct cudaDeviceProp properties;
    cuda_check(cudaGetDevice(&device));
    cuda_check(cudaGetDeviceProperties(&properties, device));
    t->pace.peak_flops =
        t->run.options.peak_tflops > 0 ? 1e12 * t->run.options.peak_tflops : flops_peak_of_device(properties.name);
    snprintf(t->state.identity.device, sizeof t->state.identity.device, "%.100s", properties.name);
    if (strcmp(t->state.identity.device, "CPU") == 0)
        append_processor(t->state.identity.device, sizeof t->state.identity.device);
}

enum { SUMMARY_INDENT = 10 }; // of what stands behind a line's name

static void print_ranks(const Trainer *t) {
    const Team *team = &t->run.team;
    if (team->size == 1) return;
    progress_say(stdout, SUMMARY_INDENT, "ranks     %d over %s, ZeRO-%lld, shard group %d", team->size,
                 world_transport(team->world), (long long)t->run.options.zero,
                 trainer_shard_group(&t->run.options, team->size));
}

// Where validation loss is that of a part.
static void say_coverage(const Trainer *t) {
    char text[64];
    const Options *o = &t->run.options;
    if (!t->data.val || !o->eval_every ||
        evaluate_coverage(text, sizeof text, t->data.val, (int)o->batch_size, o->eval_batches))
        return;
    progress_say(stdout, SUMMARY_INDENT, "validation on %s, always the same (--eval-batches %lld)", text,
                 (long long)o->eval_batches);
}

// Links can give a file to a set more than once.
static void say_twins(const Loader *loader, const char *option) {
    const char *first = "", *twin = "";
    const int twins = loader_count_twins(loader, &first, &twin);
    if (twins)
        progress_say(stdout, SUMMARY_INDENT, "twice     %d file%s of %s under another name: %s is %s", twins,
                     twins == 1 ? "" : "s", option, twin, first);
}

static void print_data(const Trainer *t) {
    const long long T = t->run.options.seq_len;
    const int files = loader_num_shards(t->data.train);
    const unsigned long long windows = loader_num_windows(t->data.train);
    char tokens[16], rows[16];
    progress_count(tokens, sizeof tokens, (double)loader_num_tokens(t->data.train));
    progress_count(rows, sizeof rows, (double)loader_num_rows(t->data.train));
    if (t->run.options.task == TASK_PRETRAIN) {
        progress_say(stdout, SUMMARY_INDENT, "data      %s tokens in %d shard%s, %llu windows of %lld", tokens, files,
                     files == 1 ? "" : "s", windows, T);
        say_coverage(t);
        if (!t->data.tokenizer)
            progress_say(
                stdout, SUMMARY_INDENT,
                "tokenizer none: llm.c's shards name none, and without --tokenizer FILE the checkpoints have none");
        return;
    }
    progress_say(stdout, SUMMARY_INDENT, "task      %s", options_task_name(&t->run.options));
    progress_say(stdout, SUMMARY_INDENT, "data      %s %s, %s tokens in %d file%s, %llu packs of %lld, %.1f %% full",
                 rows, trainer_compares(&t->run.options) ? "comparisons" : "conversations", tokens, files,
                 files == 1 ? "" : "s", windows, T, 100 * loader_fill(t->data.train));
    trainer_tell_skipped(t->data.train, "--train-data", (int)T);
    if (t->data.val) trainer_tell_skipped(t->data.val, "--val-data", (int)T);
    say_coverage(t);
}

static void print_trained(const Trainer *t) {
    const ParameterTable *table = llama3_parameters(t->model);
    char trained[16];
    if (table->num_trained == table->num_parameters) return;
    progress_count(trained, sizeof trained, (double)table->num_trained);
    progress_say(stdout, SUMMARY_INDENT, "trained   %s of them, %.3g %%", trained,
                 100 * (double)table->num_trained / (double)table->num_parameters);
}

static void print_summary(const Trainer *t) {
    const Options *o = &t->run.options;
    char among[48] = "", parameters[16], step_tokens[16];
    progress_say(stdout, SUMMARY_INDENT, "version   %s, %s", LLMC_VERSION, state_precision());
    progress_say(stdout, SUMMARY_INDENT, "device    %s", t->state.identity.device);
    progress_count(parameters, sizeof parameters, (double)llama3_parameters(t->model)->num_parameters);
    progress_count(step_tokens, sizeof step_tokens, (double)o->tokens_per_step);
    const double rows = (double)(o->batch_size * o->grad_accum * t->run.team.size);
    const double epochs = (double)o->steps * rows / (double)loader_num_windows(t->data.train);
    progress_say(stdout, SUMMARY_INDENT,
                 "model     %s parameters: %d layers, hidden %d, %d heads over %d, vocabulary %d", parameters,
                 t->run.config.num_hidden_layers, t->run.config.hidden_size, t->run.config.num_attention_heads,
                 t->run.config.num_key_value_heads, t->run.config.vocab_size);
    print_trained(t);
    print_data(t);
    say_twins(t->data.train, "--train-data");
    if (t->run.team.size > 1) snprintf(among, sizeof among, " on each of %d ranks", t->run.team.size);
    progress_say(stdout, SUMMARY_INDENT, "run       %lld steps of %s tokens (%lld x %lld rows of %lld%s), %.2f epochs",
                 (long long)o->steps, step_tokens, (long long)o->grad_accum, (long long)o->batch_size,
                 (long long)o->seq_len, among, epochs);
    print_ranks(t);
    trainer_print_resume(t);
    if (t->sampling.decoder)
        decoder_print_memory(t->sampling.decoder, stdout);
    else
        memory_print(llama3_memory(t->model), stdout);
    fflush(stdout);
}

// What each rank does for itself.
static int open_inputs(Trainer *t, Error *err) {
    int code = trainer_share_resume(t, err); // collective, and first
    if (!code) code = settle_step(t, err);
    if (!code) code = read_config(t, err);
    if (!code) code = trainer_open_data(t, err);
    if (!code) code = settle_length(t, err);
    if (!code) code = trainer_open_tasks(t, err);
    if (!code) code = find_origin(t, err);
    if (!code && t->run.options.task == TASK_REWARD)
        code = import_check_padding(t->task.origin, t->data.train_shard, err);
    if (!code) code = take_document_ids(&t->run.config, t->task.origin != NULL, t->data.train, err);
    if (!code) code = check_sampling(t, err);
    return code ? code : check_resume(t, err);
}

static int open_model(Trainer *t, Error *err) {
    find_device(t);
    int code = create_model(t, err);
    return code ? code : trainer_prepare_saving(t, err);
}

static int start_watching(Trainer *t, Error *err) {
    const WatchdogSpec spec = {.folder = t->run.options.output,
                               .rank = t->run.team.rank,
                               .size = t->run.team.size,
                               .timeout = (double)t->run.options.rank_timeout,
                               .world = t->run.team.world};
    t->run.watched = t->run.team.size > 1;
    watchdog_phase("loading");
    return watchdog_start(&spec, err);
}

// No rank misses another one any more, and none writes into the folder.
static void stop_watching(const Trainer *t) {
    if (!t->run.watched) return;
    comm_barrier(t->run.team.comm);
    watchdog_stop();
    comm_barrier(t->run.team.comm);
}

static int open_parts(Trainer *t, Error *err) {
    const Team *team = &t->run.team;
    int code = team_agree(team, set_threads(t, err), err);
    if (!code) code = team_follow(team, open_folder(t, err), err);
    if (!code) code = team_agree(team, start_watching(t, err), err);
    if (!code) code = team_agree(team, open_inputs(t, err), err);
    if (!code) code = trainer_compare_data(t, err);
    if (!code) code = trainer_divide(t, err);
    return code ? code : team_agree(team, open_model(t, err), err);
}

int trainer_open(Trainer **out, const Options *options, const Team *team, Error *err) {
    Trainer *t = calloc(1, sizeof *t);
    if (!t) return fail_fault(err, "out of memory"); // so early and small that the other ranks need not know
    t->run.options = *options;
    t->run.team = team ? *team : (Team){.size = 1};
    t->run.log.fd = -1;
    t->run.dir.lock.fd = -1;
    t->data.unigram_loss = NAN;
    int code = options_trace_steps(options, &t->timeline.first, &t->timeline.last, err);
    if (!code) code = open_parts(t, err);
    if (code) {
        trainer_close(t);
        return code;
    }
    const Options *o = &t->run.options;
    t->shown = (ProgressState){0, o->steps, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NULL};
    t->schedule = (Schedule){o->lr, o->warmup_steps, o->schedule_steps, o->final_lr_fraction, (int)o->schedule};
    t->pace.flops_per_token = flops_per_token(&t->run.config, llama3_parameters(t->model), (int)o->seq_len);
    print_summary(t);
    *out = t;
    return 0;
}

bool trainer_was_done(const Trainer *t) {
    if (t->saver.first_step == 0 || t->saver.first_step < t->run.options.steps || t->state.due) return false;
    printf("done: %s has all of --steps %lld\n", t->resume.folder, (long long)t->run.options.steps);
    return true;
}

Llama3 *trainer_model(const Trainer *t) { return t->model; }

void trainer_close(Trainer *t) {
    if (!t) return;
    trainer_end_saving(t);
    if (t->run.progress.out) progress_end(&t->run.progress);
    log_close(&t->run.log);
    snapshot_destroy(t->saver.snapshot);
    decoder_destroy(t->sampling.decoder);
    sampler_destroy(t->sampling.sampler);
    llama3_destroy(t->model);
    evaltasks_close(t->tasks);
    loader_close(t->data.val);
    loader_close(t->data.train);
    tokenizer_close(t->data.tokenizer);
    free(t->sampling.ids);
    free(t->guard.checksums);
    free(t->task.ref_logprobs);
    free(t->task.val_ref_logprobs);
    resume_free(&t->resume);
    stop_watching(t);
    run_dir_close(&t->run.dir);
    free(t);
}
