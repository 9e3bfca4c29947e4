#include "train/recipe_tables.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"
#include "run/progress.h"

enum { NAME_COLUMNS = 18, INDENT = NAME_COLUMNS + 2, LINE_COLUMNS = 100, COUNT_SIZE = 16 };

// ---- text

void recipe_print_name(const char *text) {
    size_t bytes = 0, columns = 0, room = strlen(text);
    for (; columns < NAME_COLUMNS && bytes < room; columns++) {
        const size_t length = utf8_length((const unsigned char *)text + bytes, room - bytes);
        bytes += length ? length : 1;
    }
    printf("%.*s%*s", (int)bytes, text, (int)(INDENT - columns), "");
}

static const char *count(char text[COUNT_SIZE], double number) {
    progress_count(text, COUNT_SIZE, number);
    return text;
}

// What is printed behind a name, separated by commas.
typedef struct {
    char items[2 * RECIPE_MAX_LIST + 8][160];
    int count;
} List;

__attribute__((format(printf, 2, 3))) static void add(List *list, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(list->items[list->count++], sizeof list->items[0], format, args);
    va_end(args);
}

// It goes on in a new line where one is full.
static void print_list(const char *name, const List *list) {
    int column = INDENT;
    if (!list->count) return;
    recipe_print_name(name);
    for (int i = 0; i < list->count; i++) {
        const int length = (int)strlen(list->items[i]) + 2;
        if (column + length > LINE_COLUMNS && column > INDENT) {
            printf("\n%*s", INDENT, "");
            column = INDENT;
        } else if (i > 0) {
            printf(" ");
        }
        printf("%s%s", list->items[i], i + 1 < list->count ? "," : "\n");
        column += length;
    }
}

// ---- stages

static double rate_at(const Recipe *recipe, const Stage *s, int64_t step) {
    return recipe_rate(recipe, (int)(s - recipe->stages), step, s->first_step + step,
                       s->first_token + step * s->tokens_per_step);
}

// The highest rate of the stage: of its first or last update, or of the last one of a piece.
static double highest_rate(const Recipe *recipe, const Stage *s) {
    const LearningRate *rate = s->rate.count ? &s->rate : &recipe->rate;
    double highest = fmax(rate_at(recipe, s, 0), rate_at(recipe, s, s->steps - 1));
    for (int i = 0; i < rate->count; i++) {
        const int64_t step = recipe_piece_end(recipe, (int)(s - recipe->stages), i);
        if (step >= 0) highest = fmax(highest, rate_at(recipe, s, step));
    }
    return highest;
}

static void print_stage(const Recipe *recipe, const Stage *s) {
    char tokens[COUNT_SIZE], steps[COUNT_SIZE], batch[COUNT_SIZE], rows[48];
    const double first = rate_at(recipe, s, 0), last = rate_at(recipe, s, s->steps - 1);
    const double highest = highest_rate(recipe, s);
    snprintf(rows, sizeof rows, "%lld x %lld", (long long)s->grad_accum, (long long)s->batch_size);
    recipe_print_name(s->name);
    printf("%7s %7s %9s %7lld  %-12s  %.3g -> ", count(tokens, (double)s->tokens), count(steps, (double)s->steps),
           count(batch, (double)s->tokens_per_step), (long long)s->seq_len, rows, first);
    if (highest > fmax(first, last) * 1.0005) printf("%.3g -> ", highest);
    printf("%.3g\n", last);
}

void recipe_print_stages(const Recipe *recipe) {
    char tokens[COUNT_SIZE], steps[COUNT_SIZE];
    printf("\n%-*s%7s %7s %9s %7s  %-12s  %s\n", INDENT, "stage", "tokens", "steps", "per step", "length", "rows",
           "learning rate");
    for (int i = 0; i < recipe->num_stages; i++) print_stage(recipe, &recipe->stages[i]);
    recipe_print_name("all");
    printf("%7s %7s\n", count(tokens, (double)recipe->total_tokens), count(steps, (double)recipe->total_steps));
}

// ---- the mixture

static bool same_mixture(const Stage *a, const Stage *b) {
    bool same = a->num_weights == b->num_weights;
    for (int i = 0; same && i < a->num_weights; i++)
        same = a->mixture[i].source == b->mixture[i].source && a->mixture[i].weight == b->mixture[i].weight &&
               a->mixture[i].weight_at_end == b->mixture[i].weight_at_end;
    return same;
}

void recipe_print_mixtures(const Recipe *recipe) {
    double weights[RECIPE_MAX_SOURCES], at_end[RECIPE_MAX_SOURCES];
    printf("\n%-*sshares of the sources in %%\n", INDENT, "mixture");
    for (int i = 0; i < recipe->num_stages; i++) {
        const Stage *s = &recipe->stages[i];
        List list = {.count = 0};
        recipe_shares(recipe, i, weights, at_end);
        if (i && same_mixture(s, s - 1)) add(&list, "as before");
        for (int j = 0; j < s->num_weights && (j || !list.count); j++) {
            const int source = s->mixture[j].source;
            const char *name = recipe->sources[source].name;
            const double first = 100 * weights[source], last = 100 * at_end[source];
            if (first == last)
                add(&list, "%.100s %.4g", name, first);
            else
                add(&list, "%.100s %.4g -> %.4g", name, first, last);
        }
        print_list(s->name, &list);
    }
}

// ---- what else a stage says

static void add_rope(List *list, const Stage *s, const Stage *before) {
    if (s->rope_theta != before->rope_theta) add(list, "RoPE theta %g", s->rope_theta);
    if (!s->has_rope_scaling ||
        (before->has_rope_scaling && before->rope_factor == s->rope_factor && before->rope_type == s->rope_type &&
         before->rope_original_max_position == s->rope_original_max_position))
        return;
    if (s->rope_type == ROPE_DEFAULT)
        add(list, "RoPE not scaled");
    else
        add(list, "RoPE scaled %g times from %d", s->rope_factor, s->rope_original_max_position);
}

static void add_evaluations(List *list, const Stage *s, const Stage *before) {
    if (s->eval_every && s->eval_every != before->eval_every)
        add(list, "validation every %lld steps", (long long)s->eval_every);
    for (int i = 0; i < s->num_tasks && s->tasks != before->tasks; i++)
        add(list, "%.80s every %lld", s->tasks[i], (long long)s->tasks_every);
    for (int i = 0; i < s->num_conditions; i++)
        add(list, "%s %.60s %.40s >= %g", i ? "and" : "ends when", s->conditions[i].task, s->conditions[i].metric,
            s->conditions[i].at_least);
    if (s->num_conditions) add(list, "asked every %lld", (long long)s->check_every);
}

static void add_average(List *list, const Stage *s) {
    if (s->average_last_steps && s->average_every == 1)
        add(list, "mean of the weights over the last %lld steps", (long long)s->average_last_steps);
    else if (s->average_last_steps)
        add(list, "mean of the weights over every %lld of the last %lld steps", (long long)s->average_every,
            (long long)s->average_last_steps);
}

void recipe_print_rest(const Recipe *recipe) {
    static const Stage none = {.document_mask = true};
    printf("\n%-*s%s\n", INDENT, "besides", "what changes of RoPE, masks and evaluations; averaging");
    for (int i = 0; i < recipe->num_stages; i++) {
        const Stage *s = &recipe->stages[i], *before = i ? s - 1 : &none;
        List list = {.count = 0};
        add_rope(&list, s, before);
        if (s->document_mask != before->document_mask)
            add(&list, "attention %s documents", s->document_mask ? "within" : "across");
        add_evaluations(&list, s, before);
        add_average(&list, s);
        print_list(s->name, &list);
    }
}
