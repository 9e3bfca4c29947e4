#include "eval/score.h"

#include <stdlib.h>

#include "loader/packs.h"
#include "model/llama3_inference.h"

typedef struct {
    const EvalSet *set;
    const EvalPacking *packing;
    int64_t first_row, rows; // of the packing, in this batch
    // Of each target in this batch, ending by ending; there is room for all of the set's tokens.
    int count;
    int32_t *positions, *targets;
    float *losses;
    int32_t *likeliest; // NULL: not wanted
} Scoring;

static const EvalSequence *sequences_begin(const Scoring *s) {
    return s->packing->sequences + s->packing->row_first[s->first_row];
}
static const EvalSequence *sequences_end(const Scoring *s) {
    return s->packing->sequences + s->packing->row_first[s->first_row + s->rows];
}

static void add_target(Scoring *s, size_t position, int32_t target) {
    s->positions[s->count] = (int32_t)position;
    s->targets[s->count++] = target;
}

// First what the endings share, then each one's own, for which the others' before it are excluded.
static void put_sequence(Scoring *s, const EvalSequence *q, Batch *batch) {
    const EvalItem *item = &s->set->items[q->item];
    const EvalEnding *endings = &s->set->endings[q->ending];
    const int64_t context = item->context_tokens, own = q->first > context ? q->first : context; // position, joined
    const size_t row = (size_t)(q->row - s->first_row) * (size_t)s->packing->T;
    int at = q->start; // in the row
    for (int64_t p = q->first; p < own; p++)
        batch_put(batch, row + (size_t)at++, evalpack_token(s->set, item, endings, p), q->start, 0, 0);
    const int shared_end = at;
    for (const EvalEnding *e = endings; e < endings + q->num_endings; e++) {
        const int begin = at;
        const int64_t predicting = context - 1 + q->predicted;
        const int64_t end = predicting + evalpack_targets(s->packing, q, e);
        for (int64_t p = own; p < end; p++)
            batch_put(batch, row + (size_t)at++, evalpack_token(s->set, item, e, p), q->start, shared_end, begin);
        for (int64_t p = predicting; p < end; p++)
            add_target(s, row + (size_t)((p < own ? shared_end : begin) + (p - own)),
                       evalpack_token(s->set, item, e, p + 1));
    }
}

static void collect(const Scoring *s, double *loglikelihoods, bool *exact) {
    int k = 0; // the target
    for (const EvalSequence *q = sequences_begin(s); q < sequences_end(s); q++)
        for (int64_t e = q->ending; e < q->ending + q->num_endings; e++)
            for (int left = evalpack_targets(s->packing, q, &s->set->endings[e]); left > 0; left--, k++) {
                loglikelihoods[e] -= s->losses[k];
                if (exact && s->likeliest[k] != s->targets[k]) exact[e] = false;
            }
}

static void score_batch(Scoring *s, Llama3 *m, double *loglikelihoods, bool *exact) {
    Batch *batch = llama3_batch(m, 0);
    for (int row = 0; row < s->rows; row++) batch_clear(batch, s->packing->T, row, 0, true);
    s->count = 0;
    for (const EvalSequence *q = sequences_begin(s); q < sequences_end(s); q++) put_sequence(s, q, batch);
    llama3_token_losses(m, (int)s->rows, s->positions, s->targets, s->count, s->losses, s->likeliest);
    collect(s, loglikelihoods, exact);
}

int eval_score(double *loglikelihoods, bool *exact, Llama3 *m, int B, const EvalSet *set, const EvalPacking *packing,
               EvalStop stop, Error *err) {
    Scoring s = {.set = set, .packing = packing};
    const size_t most = (size_t)set->num_tokens;
    s.positions = malloc(most * sizeof *s.positions);
    s.targets = malloc(most * sizeof *s.targets);
    s.losses = malloc(most * sizeof *s.losses);
    s.likeliest = exact ? malloc(most * sizeof *s.likeliest) : NULL;
    const bool enough = s.positions && s.targets && s.losses && (s.likeliest || !exact);
    for (int64_t i = 0; i < set->num_endings; i++) {
        loglikelihoods[i] = 0;
        if (exact) exact[i] = true;
    }
    for (; enough && s.first_row < packing->num_rows && !(stop && stop()); s.first_row += B) {
        s.rows = packing->num_rows - s.first_row < B ? packing->num_rows - s.first_row : B;
        score_batch(&s, m, loglikelihoods, exact);
    }
    free(s.positions);
    free(s.targets);
    free(s.losses);
    free(s.likeliest);
    return enough ? 0 : fail_fault(err, "%s: no memory for the losses of %zu tokens", set->path, most);
}
