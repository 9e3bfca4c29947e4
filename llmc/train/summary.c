#include "train/summary.h"

#include <stdio.h>

#include "base/version.h"
#include "kernels/attention_cudnn.h"
#include "train/evaluate.h"
#include "train/stage_change.h"

enum { SUMMARY_INDENT = 10 }; // of the text after a line's name

static void print_ranks(const Run *run) {
    const Team *team = &run->team;
    if (team->size == 1) return;
    progress_line(stdout, SUMMARY_INDENT, "ranks     %d over %s, ZeRO-%lld, shard group %d", team->size,
                  world_transport(team->world), (long long)run->options.zero,
                  options_shard_group(&run->options, team->size));
}

// Prints what is computed by cuDNN and what is not.
static void print_attention(const Options *o) {
    if (o->attention == ATTENTION_OWN) return;
    progress_line(stdout, SUMMARY_INDENT, "attention by cuDNN %s in training and validation, %s; %s",
                  cudnn_attention_version(),
                  o->attention == ATTENTION_CUDNN ? "deterministic" : "every run has other bits",
                  "evaluations of --eval-tasks and samples by this program's kernels");
}

// Prints how much of the validation data is evaluated, unless it is all.
static void print_coverage(const Options *o, const TrainData *data) {
    char text[64];
    if (!data->num_val || !o->eval_every ||
        evaluate_coverage(text, sizeof text, data->val->loader, (int)o->batch_size, o->eval_batches))
        return;
    progress_line(stdout, SUMMARY_INDENT, "validation on %s, always the same (--eval-batches %lld)", text,
                  (long long)o->eval_batches);
}

// Prints whether links put a file into the set more than once.
static void print_duplicates(const Loader *loader, const char *option) {
    const char *first = "", *second = "";
    const int duplicates = loader_count_duplicates(loader, &first, &second);
    if (duplicates)
        progress_line(stdout, SUMMARY_INDENT, "twice     %d file%s of %s under another name: %s is %s", duplicates,
                      duplicates == 1 ? "" : "s", option, second, first);
}

static void print_documents(const TrainData *data, const Options *o) {
    const int files = loader_num_shards(data->train);
    char tokens[16];
    progress_count(tokens, sizeof tokens, (double)loader_num_tokens(data->train));
    progress_line(stdout, SUMMARY_INDENT, "data      %s tokens in %d shard%s, %llu windows of %lld", tokens, files,
                  files == 1 ? "" : "s", (unsigned long long)loader_num_windows(data->train), (long long)o->seq_len);
    print_coverage(o, data);
    if (!data->tokenizer)
        progress_line(
            stdout, SUMMARY_INDENT,
            "tokenizer none: llm.c's shards name none, and without --tokenizer FILE the checkpoints have none");
}

static void print_rows(const TrainData *data, const Options *o, const char *rows_name) {
    const int files = loader_num_shards(data->train), T = (int)o->seq_len;
    char tokens[16], rows[16];
    progress_count(tokens, sizeof tokens, (double)loader_num_tokens(data->train));
    progress_count(rows, sizeof rows, (double)loader_num_rows(data->train));
    progress_line(stdout, SUMMARY_INDENT, "task      %s", options_task_name(o));
    progress_line(stdout, SUMMARY_INDENT, "data      %s %s, %s tokens in %d file%s, %llu packs of %d, %.1f %% full",
                  rows, rows_name, tokens, files, files == 1 ? "" : "s",
                  (unsigned long long)loader_num_windows(data->train), T, 100 * loader_fill(data->train));
    train_data_print_skipped(data->train, "--train-data", T);
    if (data->num_val) train_data_print_skipped(data->val->loader, "--val-data", T);
    print_coverage(o, data);
}

static void print_source(const TrainData *data, const RecipeSource *source, int index) {
    char tokens[16], limit[48] = "";
    int files;
    mixture_files(data->mixture, index, &files);
    progress_count(tokens, sizeof tokens, (double)mixture_tokens(data->mixture, index));
    if (source->max_epochs > 0) snprintf(limit, sizeof limit, ", read at most %g times", source->max_epochs);
    progress_line(stdout, SUMMARY_INDENT, "source    %s: %s tokens in %d shard%s%s", source->name, tokens, files,
                  files == 1 ? "" : "s", limit);
}

static void print_recipe(const Run *run, const StagePlace *place, const TrainData *data) {
    const Recipe *recipe = place->recipe;
    char text[512], tokens[16];
    for (int i = 0; i < recipe->num_sources; i++) print_source(data, &recipe->sources[i], i);
    progress_count(tokens, sizeof tokens, (double)recipe->total_tokens);
    progress_line(stdout, SUMMARY_INDENT, "recipe    %s, %s: %d stages, %lld steps, %s tokens", run->options.recipe,
                  recipe->name, recipe->num_stages, (long long)run->options.steps, tokens);
    for (int i = 0; i < recipe->num_stages; i++) {
        stage_describe_change(text, sizeof text, recipe, i);
        progress_line(stdout, SUMMARY_INDENT, "%s   %2d %s", i == place->stage ? "stage" : "     ", i + 1, text);
    }
    const Options *o = &run->options;
    progress_count(tokens, sizeof tokens, (double)o->tokens_per_step);
    progress_line(stdout, SUMMARY_INDENT, "step      %s tokens: %lld x %lld rows of %lld on each of %d rank%s", tokens,
                  (long long)o->grad_accum, (long long)o->batch_size, (long long)o->seq_len, run->team.size,
                  run->team.size > 1 ? "s" : "");
}

static void print_data(const TrainData *data, const Options *o, const TaskKind *kind) {
    if (task_rows(kind))
        print_rows(data, o, task_rows(kind));
    else
        print_documents(data, o);
    print_duplicates(data->train, "--train-data");
}

static void print_model(const LlamaConfig *config, const ParameterTable *table) {
    char parameters[16], trained[16];
    progress_count(parameters, sizeof parameters, (double)table->num_parameters);
    progress_line(stdout, SUMMARY_INDENT,
                  "model     %s parameters: %d layers, hidden %d, %d heads over %d, vocabulary %d", parameters,
                  config->num_hidden_layers, config->hidden_size, config->num_attention_heads,
                  config->num_key_value_heads, config->vocab_size);
    if (table->num_trained == table->num_parameters) return;
    progress_count(trained, sizeof trained, (double)table->num_trained);
    progress_line(stdout, SUMMARY_INDENT, "trained   %s of them, %.3g %%", trained,
                  100 * (double)table->num_trained / (double)table->num_parameters);
}

static void print_length(const Run *run, const Loader *train) {
    const Options *o = &run->options;
    char among[48] = "", step_tokens[16];
    progress_count(step_tokens, sizeof step_tokens, (double)o->tokens_per_step);
    const double rows = (double)(o->batch_size * o->grad_accum * run->team.size);
    const double epochs = (double)o->steps * rows / (double)loader_num_windows(train);
    if (run->team.size > 1) snprintf(among, sizeof among, " on each of %d ranks", run->team.size);
    progress_line(stdout, SUMMARY_INDENT, "run       %lld steps of %s tokens (%lld x %lld rows of %lld%s), %.2f epochs",
                  (long long)o->steps, step_tokens, (long long)o->grad_accum, (long long)o->batch_size,
                  (long long)o->seq_len, among, epochs);
}

void summary_print(const Trainer *t) {
    const Run *run = &t->run;
    progress_line(stdout, SUMMARY_INDENT, "version   %s, %s", LLMC_VERSION, version_precision());
    progress_line(stdout, SUMMARY_INDENT, "device    %s", t->state.identity.device);
    print_model(&run->config, llama3_parameters(t->model));
    if (t->state.place.recipe) {
        print_recipe(run, &t->state.place, &t->data);
    } else {
        print_data(&t->data, &run->options, t->task.kind);
        print_length(run, t->data.train);
    }
    print_ranks(run);
    print_attention(&run->options);
    resume_print(&t->resume, &run->options, &t->state.identity);
    if (t->sampling.decoder)
        decoder_print_memory(t->sampling.decoder, stdout);
    else
        memory_print(llama3_memory(t->model), stdout);
    fflush(stdout);
}
