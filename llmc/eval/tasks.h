// The evaluations of a run: the files that a pattern finds. They are checked and packed once and can be scored many times.
#ifndef LLMC_EVAL_TASKS_H
#define LLMC_EVAL_TASKS_H

#include <stdbool.h>

#include "eval/metrics.h"
#include "eval/score.h"
#include "model/llama3_create.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct EvalTasks EvalTasks;

// Opens all files that the pattern names (file_match), in the byte order of their paths. T: tokens of a row of the
// model. Their vocabulary must fit into the model's, and if tokenizer_sha256 is not NULL, their tokenizer must
// be that one. Errors: 2 (no match, content, an ending longer than T), 1. *out is set on success only.
int evaltasks_open(EvalTasks **out, const char *pattern, int T, int vocab_size, const uint8_t *tokenizer_sha256,
                   Error *err);
void evaltasks_close(EvalTasks *tasks); // NULL is allowed

int evaltasks_count(const EvalTasks *tasks);
const char *evaltasks_name(const EvalTasks *tasks, int index); // the file's, without folder and ending
bool evaltasks_measures(const EvalTasks *tasks, int index, const char *measure); // eval_measure_named

// exact [num_items of the set] = whether greedy decoding writes the item's right ending. Errors: 1.
typedef int (*EvalDecode)(bool *exact, Llama3 *m, const EvalSet *set, EvalStop stop, Error *err);

// *result = what the model, of B rows of T tokens, reaches in that task; see eval_score. decode: finds exact matches of needles;
// NULL: eval_score does, without another forward pass. Errors: 1.
int evaltasks_run(EvalTasks *tasks, int index, Llama3 *m, int B, EvalDecode decode, EvalStop stop, EvalResult *result,
                  Error *err);

#ifdef __cplusplus
}
#endif
#endif
