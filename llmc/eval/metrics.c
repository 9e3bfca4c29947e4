#include "eval/metrics.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

typedef enum { BY_SUM, BY_CHARACTER, BY_BYTE } Norm;

static double score(const EvalEnding *ending, double loglikelihood, Norm norm) {
    switch (norm) {
    case BY_CHARACTER:
        return loglikelihood / ending->characters;
    case BY_BYTE:
        return loglikelihood / ending->bytes;
    case BY_SUM:
        break;
    }
    return loglikelihood;
}

static bool is_right(const EvalSet *set, const EvalItem *item, const double *loglikelihoods, Norm norm) {
    int best = 0;
    double best_score = NAN;
    for (int i = 0; i < item->num_endings; i++) {
        const int64_t index = item->first_ending + i;
        const double found = score(&set->endings[index], loglikelihoods[index], norm);
        if (i > 0 && !(found > best_score)) continue;
        best = i;
        best_score = found;
    }
    return best == item->label && !isnan(best_score);
}

static EvalShare share_of(int64_t right, int64_t items) {
    const double n = (double)items, mean = (double)right / n;
    // The sample variance of zeros and ones is n/(n-1) mean (1-mean).
    return (EvalShare){mean, n > 1 ? sqrt(mean * (1 - mean) / (n - 1)) : NAN};
}

static double mean_nll(const EvalSet *set, const double *loglikelihoods) {
    double sum = 0;
    for (int64_t i = 0; i < set->num_items; i++) {
        const int64_t right = set->items[i].first_ending + set->items[i].label;
        sum -= score(&set->endings[right], loglikelihoods[right], BY_CHARACTER);
    }
    return sum / (double)set->num_items;
}

static EvalShare share(const EvalSet *set, const double *loglikelihoods, Norm norm) {
    int64_t right = 0;
    for (int64_t i = 0; i < set->num_items; i++) right += is_right(set, &set->items[i], loglikelihoods, norm);
    return share_of(right, set->num_items);
}

// The cells count until they are divided.
static void measure_needles(EvalResult *result, const EvalSet *set, const double *loglikelihoods, const bool *exact) {
    int64_t found = 0;
    result->length = set->length;
    result->num_cells = set->num_depths;
    for (int64_t i = 0; i < set->num_items; i++) {
        EvalCell *cell = &result->cells[evalset_depth(set, set->items[i].depth)];
        cell->depth = 100.0 * set->items[i].depth / EVALSET_WHOLE_DEPTH;
        cell->items++;
        cell->acc += is_right(set, &set->items[i], loglikelihoods, BY_SUM);
        cell->exact_match += exact[i];
        found += exact[i];
    }
    for (EvalCell *cell = result->cells; cell < result->cells + result->num_cells; cell++) {
        cell->acc /= (double)cell->items;
        cell->exact_match /= (double)cell->items;
    }
    result->acc = share(set, loglikelihoods, BY_SUM);
    result->exact_match = share_of(found, set->num_items);
}

EvalResult eval_measure(const EvalSet *set, const double *loglikelihoods, const bool *exact) {
    EvalResult result = {.kind = set->kind, .items = set->num_items};
    if (set->kind == EVAL_CHOICE) {
        result.acc = share(set, loglikelihoods, BY_SUM);
        result.acc_norm = share(set, loglikelihoods, BY_CHARACTER);
        result.acc_bytes = share(set, loglikelihoods, BY_BYTE);
        result.nll = mean_nll(set, loglikelihoods);
        return result;
    }
    if (set->kind == EVAL_NEEDLES) {
        measure_needles(&result, set, loglikelihoods, exact);
        return result;
    }
    double sum = 0, words = 0, bytes = 0, tokens = 0;
    for (int64_t i = 0; i < set->num_endings; i++) {
        sum += loglikelihoods[i];
        words += set->endings[i].characters;
        bytes += set->endings[i].bytes;
        tokens += set->endings[i].num_tokens;
    }
    result.word_perplexity = exp(-sum / words);
    result.byte_perplexity = exp(-sum / bytes);
    result.bits_per_byte = -sum / bytes / log(2);
    result.token_perplexity = exp(-sum / tokens);
    return result;
}

static void describe_needles(char *text, size_t capacity, const EvalResult *r) {
    const EvalCell *worst = r->cells;
    for (const EvalCell *cell = r->cells; cell < r->cells + r->num_cells; cell++)
        if (cell->exact_match < worst->exact_match) worst = cell;
    snprintf(text, capacity,
             "exact_match %.4f +- %.4f, acc %.4f +- %.4f (%lld items of %lld tokens), worst at depth %.4g %%: %.4f",
             r->exact_match.mean, r->exact_match.error, r->acc.mean, r->acc.error, (long long)r->items,
             (long long)r->length, worst->depth, worst->exact_match);
}

void eval_describe(char *text, size_t capacity, const EvalResult *r) {
    if (r->kind == EVAL_NEEDLES)
        describe_needles(text, capacity, r);
    else if (r->kind == EVAL_CHOICE)
        snprintf(text, capacity, "acc %.4f +- %.4f, acc_norm %.4f +- %.4f (%lld items)", r->acc.mean, r->acc.error,
                 r->acc_norm.mean, r->acc_norm.error, (long long)r->items);
    else
        snprintf(text, capacity,
                 "word_perplexity %.4g, byte_perplexity %.4f, bits_per_byte %.4f, token_perplexity %.4g "
                 "(%lld documents)",
                 r->word_perplexity, r->byte_perplexity, r->bits_per_byte, r->token_perplexity, (long long)r->items);
}

// measures (=) [MAX_MEASURES] of the kind; returns how many.
enum { MAX_MEASURES = 7 };
static int list_measures(const EvalResult *r, LogMeasure measures[MAX_MEASURES]) {
    const LogMeasure choice[] = {{"acc", r->acc.mean},
                                 {"acc_stderr", r->acc.error},
                                 {"acc_norm", r->acc_norm.mean},
                                 {"acc_norm_stderr", r->acc_norm.error},
                                 {"acc_bytes", r->acc_bytes.mean},
                                 {"acc_bytes_stderr", r->acc_bytes.error},
                                 {"nll", r->nll}};
    const LogMeasure documents[] = {{"word_perplexity", r->word_perplexity},
                                    {"byte_perplexity", r->byte_perplexity},
                                    {"bits_per_byte", r->bits_per_byte},
                                    {"token_perplexity", r->token_perplexity}};
    const LogMeasure needles[] = {{"exact_match", r->exact_match.mean},
                                  {"exact_match_stderr", r->exact_match.error},
                                  {"acc", r->acc.mean},
                                  {"acc_stderr", r->acc.error}};
    _Static_assert(sizeof choice == MAX_MEASURES * sizeof *choice, "the longest list");
    const LogMeasure *const of_kind[] = {
        [EVAL_CHOICE] = choice, [EVAL_DOCUMENTS] = documents, [EVAL_NEEDLES] = needles};
    const size_t sizes[] = {
        [EVAL_CHOICE] = sizeof choice, [EVAL_DOCUMENTS] = sizeof documents, [EVAL_NEEDLES] = sizeof needles};
    memcpy(measures, of_kind[r->kind], sizes[r->kind]);
    return (int)(sizes[r->kind] / sizeof(LogMeasure));
}

void eval_log(Log *log, int64_t step, const char *task, const EvalResult *r) {
    LogMeasure measures[MAX_MEASURES];
    LogCell cells[EVALSET_MAX_DEPTHS];
    const LogCells by_depth = {r->length, cells, r->num_cells};
    for (int i = 0; i < r->num_cells; i++)
        cells[i] = (LogCell){r->cells[i].depth, r->cells[i].items, r->cells[i].acc, r->cells[i].exact_match};
    const LogTask line = {task, r->items, measures, list_measures(r, measures), r->num_cells ? &by_depth : NULL};
    log_task(log, step, &line);
}

bool eval_measure_named(const EvalResult *r, const char *name, double *value) {
    LogMeasure measures[MAX_MEASURES];
    for (int i = list_measures(r, measures) - 1; i >= 0; i--) {
        if (strcmp(measures[i].name, name) != 0) continue;
        *value = measures[i].value;
        return true;
    }
    return false;
}
