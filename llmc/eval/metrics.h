// What log-likelihoods say about a model: the measures of lm-eval, by its definitions.
#ifndef LLMC_EVAL_METRICS_H
#define LLMC_EVAL_METRICS_H

#include <stdbool.h>

#include "eval/items.h"
#include "run/log.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    double mean, error; // error: standard error of the mean, NAN for a single item
} EvalShare;

typedef struct {
    double depth; // percent
    int64_t items;
    double acc, exact_match;
} EvalCell;

typedef struct {
    EvalKind kind;
    int64_t items;
    // EVAL_CHOICE and EVAL_NEEDLES: shares of items whose label has the greatest log-likelihood: as it is, for each character
    // of the ending, for each of its bytes. Of equals the first one counts.
    EvalShare acc, acc_norm, acc_bytes;
    double nll; // the mean negative log-likelihood for each character of the right ending
    // EVAL_NEEDLES: share of items whose right ending greedy decoding writes; and the shares by depth
    EvalShare exact_match;
    int64_t length;                     // tokens of an item
    EvalCell cells[EVALSET_MAX_DEPTHS]; // [num_cells], by rising depth
    int num_cells;
    // EVAL_DOCUMENTS: exp of the mean negative log-likelihood for each word, byte and token; bits for each
    // byte
    double word_perplexity, byte_perplexity, bits_per_byte, token_perplexity;
} EvalResult;

// loglikelihoods [num_endings]; exact: of needles, [num_items], whether greedy decoding writes the right ending.
EvalResult eval_measure(const EvalSet *set, const double *loglikelihoods, const bool *exact);

// "acc 0.2512 +- 0.0043, acc_norm ...", "word_perplexity 23.41, ..." or "exact_match 0.9500 +- 0.0100, ...", zero-terminated,
// cut to capacity.
void eval_describe(char *text, size_t capacity, const EvalResult *result);

// A line of the log: of multiple choice "acc", "acc_stderr", "acc_norm", "acc_norm_stderr", "acc_bytes", "acc_bytes_stderr",
// "nll";
// of documents "word_perplexity", "byte_perplexity", "bits_per_byte", "token_perplexity"; of needles "exact_match",
// "exact_match_stderr", "acc", "acc_stderr", and the cells by depth (log_task).
void eval_log(Log *log, int64_t step, const char *task, const EvalResult *result);

// *value = that measure, by its name in the log. Returns whether results of this kind have it.
bool eval_measure_named(const EvalResult *result, const char *name, double *value);

#ifdef __cplusplus
}
#endif
#endif
