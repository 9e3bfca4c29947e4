#include "eval/score.h"

#include <stdlib.h>
#include <string.h>

#include "model/llama3_inference.h"

typedef struct {
    const EvalSet *set;
    const EvalPacking *packing;
    int B;
    int64_t first_row, rows; // of the packing, in this batch; rows <= B
    float *losses;           // [B*T]
} Scoring;

static const EvalSequence *sequences_begin(const Scoring *s) {
    return s->packing->sequences + s->packing->row_first[s->first_row];
}
static const EvalSequence *sequences_end(const Scoring *s) {
    return s->packing->sequences + s->packing->row_first[s->first_row + s->rows];
}
static size_t place(const Scoring *s, const EvalSequence *sequence) {
    return (size_t)(sequence->row - s->first_row) * (size_t)s->packing->T + (size_t)sequence->start;
}

// Where nothing stands, every position is a document of its own, which costs attention least.
static void clear_batch(const Scoring *s, Batch *batch) {
    const int T = s->packing->T;
    for (int row = 0; row < s->B; row++)
        for (int t = 0; t < T; t++) {
            const size_t at = (size_t)row * (size_t)T + (size_t)t;
            batch->tokens[at] = 0;
            batch->doc_start[at] = t;
            batch->order[at] = (int32_t)at; // only a backward pass looks at it
        }
}

static void put_inputs(const Scoring *s, Batch *batch) {
    for (const EvalSequence *q = sequences_begin(s); q < sequences_end(s); q++) {
        const EvalItem *item = &s->set->items[q->item];
        const EvalEnding *ending = &s->set->endings[q->ending];
        const size_t at = place(s, q);
        for (int t = 0; t < q->length; t++) {
            batch->tokens[at + (size_t)t] = evalpack_token(s->set, item, ending, q->first + t);
            batch->doc_start[at + (size_t)t] = q->start;
        }
    }
}

// Targets of the `which`-th of the endings that share an input. Returns how many there are in the batch.
static int put_targets(const Scoring *s, int which, Batch *batch) {
    const size_t N = (size_t)s->B * (size_t)s->packing->T;
    int count = 0;
    for (size_t i = 0; i < N; i++) batch->targets[i] = -1;
    for (const EvalSequence *q = sequences_begin(s); q < sequences_end(s); q++) {
        if (which >= q->num_endings) continue;
        const EvalItem *item = &s->set->items[q->item];
        const EvalEnding *ending = &s->set->endings[q->ending + which];
        for (int t = q->length - q->targets; t < q->length; t++)
            batch->targets[place(s, q) + (size_t)t] = evalpack_token(s->set, item, ending, q->first + t + 1);
        count += q->targets;
    }
    batch->num_targets = count;
    return count;
}

static void collect(const Scoring *s, int which, double *loglikelihoods) {
    for (const EvalSequence *q = sequences_begin(s); q < sequences_end(s); q++) {
        if (which >= q->num_endings) continue;
        const float *losses = s->losses + place(s, q);
        for (int t = q->length - q->targets; t < q->length; t++) loglikelihoods[q->ending + which] -= losses[t];
    }
}

static void score_batch(const Scoring *s, Llama3 *m, double *loglikelihoods) {
    Batch *batch = llama3_batch(m, 0);
    clear_batch(s, batch);
    put_inputs(s, batch);
    for (int which = 0; put_targets(s, which, batch) > 0; which++) {
        llama3_token_losses(m, 0, which == 0, s->losses);
        collect(s, which, loglikelihoods);
    }
}

int eval_score(double *loglikelihoods, Llama3 *m, int B, const EvalSet *set, const EvalPacking *packing, EvalStop stop,
               Error *err) {
    Scoring s = {.set = set, .packing = packing, .B = B};
    s.losses = malloc((size_t)B * (size_t)packing->T * sizeof *s.losses);
    if (!s.losses) return fail_fault(err, "%s: no memory for the losses of a batch", set->path);
    for (int64_t i = 0; i < set->num_endings; i++) loglikelihoods[i] = 0;
    for (s.first_row = 0; s.first_row < packing->num_rows && !(stop && stop()); s.first_row += B) {
        s.rows = packing->num_rows - s.first_row < B ? packing->num_rows - s.first_row : B;
        score_batch(&s, m, loglikelihoods);
    }
    free(s.losses);
    return 0;
}
