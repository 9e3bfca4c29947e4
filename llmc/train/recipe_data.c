#include "train/recipe_data.h"

#include <stdio.h>

#include "base/match.h"
#include "loader/mixture.h"
#include "run/progress.h"
#include "train/recipe_tables.h"

enum { COUNT_SIZE = 16, ANY_VOCABULARY = 1 << 24 /* the largest of a model */ };

typedef struct {
    const Recipe *recipe;
    uint64_t seed;
    int vocab_size;
    Mixture *mixture;                      // of all sources
    MixtureCursor end[RECIPE_MAX_SOURCES]; // after all stages
    double epochs[RECIPE_MAX_SOURCES];     // by then
    bool missing;                          // a source has no files
} Data;

static MixtureSource mixture_source(const RecipeSource *s) {
    return (MixtureSource){.name = s->name, .pattern = s->train, .max_epochs = s->max_epochs};
}

static int open_mixture(Mixture **out, const Data *data, int first, int count, Error *err) {
    MixtureSource sources[RECIPE_MAX_SOURCES];
    for (int i = 0; i < count; i++) sources[i] = mixture_source(&data->recipe->sources[first + i]);
    return mixture_open(out, sources, count, (int)recipe_block(data->recipe), data->seed, data->vocab_size, NULL, err);
}

static bool has_files(const char *pattern) {
    FileList list;
    const bool found = file_match(&list, pattern, "shard", NULL) == 0;
    file_list_free(&list);
    return found;
}

static void print_count(double number) {
    char text[COUNT_SIZE];
    progress_count(text, sizeof text, number);
    printf(" %8s", text);
}

// ---- what the recipe takes

static void say_used_up(const Data *data, int stage) {
    const Stage *s = &data->recipe->stages[stage];
    const int64_t rows = s->tokens_per_step / s->seq_len;
    for (int i = 0; i < data->recipe->num_sources; i++) {
        const int64_t row = mixture_exhausted(data->mixture, i);
        if (row >= 0)
            printf("source %.80s is used up in step %lld, in stage %.80s; the others share its weight\n",
                   data->recipe->sources[i].name, (long long)(s->first_step + row / rows + 1), s->name);
    }
}

// Walks through all stages as a run does in which none ends early.
static int walk(Data *data, Error *err) {
    double weights[RECIPE_MAX_SOURCES], at_end[RECIPE_MAX_SOURCES];
    int code = open_mixture(&data->mixture, data, 0, data->recipe->num_sources, err);
    for (int i = 0; !code && i < data->recipe->num_stages; i++) {
        const Stage *s = &data->recipe->stages[i];
        recipe_shares(data->recipe, i, weights, at_end);
        const MixtureSpan span = {s->tokens / s->seq_len, weights, at_end, (int)s->seq_len, s->document_mask};
        code = mixture_begin(data->mixture, &span, NULL, err);
        if (code) return code;
        say_used_up(data, i);
        mixture_position(data->mixture, span.rows, data->end);
        mixture_epochs(data->mixture, span.rows, data->epochs);
    }
    return code;
}

// The same by shares alone.
static double expected_tokens(const Recipe *recipe, int source) {
    double weights[RECIPE_MAX_SOURCES], at_end[RECIPE_MAX_SOURCES], tokens = 0;
    for (int i = 0; i < recipe->num_stages; i++) {
        recipe_shares(recipe, i, weights, at_end);
        tokens += (double)recipe->stages[i].tokens * (weights[source] + at_end[source]) / 2;
    }
    return tokens;
}

// ---- the table

static int count_files(const Data *data, int source, int *files, double *tokens, Error *err) {
    Mixture *alone = NULL;
    int code = data->mixture ? 0 : open_mixture(&alone, data, source, 1, err);
    if (code) return code;
    const Mixture *mixture = data->mixture ? data->mixture : alone;
    const int place = data->mixture ? source : 0;
    mixture_files(mixture, place, files);
    *tokens = (double)mixture_tokens(mixture, place);
    mixture_close(alone);
    return 0;
}

static int print_source(const Data *data, int i, Error *err) {
    const RecipeSource *source = &data->recipe->sources[i];
    const double taken = data->missing ? expected_tokens(data->recipe, i) : (double)data->end[i].tokens;
    const bool there = has_files(source->train);
    double tokens = 0;
    int files = 0;
    int code = there ? count_files(data, i, &files, &tokens, err) : 0;
    if (code) return code;
    recipe_print_name(source->name);
    if (!there) {
        printf("%7s %8s", "none", "");
        print_count(taken);
        printf(" %8s  no files yet: %.60s", "", source->train);
    } else {
        printf("%7d", files);
        print_count(tokens);
        print_count(taken);
        printf(" %8.2f", data->missing ? taken / tokens : data->epochs[i]);
    }
    if (source->max_epochs > 0) printf("  at most %g", source->max_epochs);
    printf("\n");
    return 0;
}

static void say_no_validation(const Recipe *recipe) {
    for (int i = 0; i < recipe->num_sources; i++) {
        const RecipeSource *s = &recipe->sources[i];
        if (s->val && !has_files(s->val)) printf("no validation files of source %.80s yet: %.200s\n", s->name, s->val);
    }
}

int recipe_print_data(const Recipe *recipe, uint64_t seed, int vocab_size, Error *err) {
    Data data = {.recipe = recipe, .seed = seed, .vocab_size = vocab_size ? vocab_size : ANY_VOCABULARY};
    for (int i = 0; i < recipe->num_sources; i++) data.missing |= !has_files(recipe->sources[i].train);
    printf("\n");
    int code = data.missing ? 0 : walk(&data, err);
    if (!code) printf("%-20s%7s %8s %8s %8s\n", "source", "files", "tokens", "taken", "epochs");
    for (int i = 0; !code && i < recipe->num_sources; i++) code = print_source(&data, i, err);
    if (!code) say_no_validation(recipe);
    mixture_close(data.mixture);
    return code;
}
