#include "eval/pack.h"

#include <stdlib.h>

int32_t evalpack_token(const EvalSet *set, const EvalItem *item, const EvalEnding *ending, int64_t position) {
    if (position < item->context_tokens) return set->tokens[item->context + position];
    return set->tokens[ending->tokens + position - item->context_tokens];
}

// ---- sequences

static int targets_from(int64_t predicted, const EvalEnding *ending, int T) {
    const int64_t left = ending->num_tokens - predicted;
    return left < T ? (int)left : T;
}

int evalpack_targets(const EvalPacking *packing, const EvalSequence *sequence, const EvalEnding *ending) {
    return targets_from(sequence->predicted, ending, packing->T);
}

// How many endings from the i-th of the item on fit into a sequence with the whole context (length =: of that), or 0.
static int fitting(const EvalSet *set, const EvalItem *item, int i, int T, int *length) {
    const EvalEnding *endings = set->endings + item->first_ending;
    int64_t all = item->context_tokens;
    int count = 0;
    for (; i + count < item->num_endings && all + endings[i + count].num_tokens - 1 <= T; count++)
        all += endings[i + count].num_tokens - 1;
    *length = (int)all;
    return count;
}

// Appends the sequences of one ending, cut to T, to `out` (NULL: only counts them) and returns their number.
static int64_t cut_ending(const EvalSet *set, int64_t item, int64_t ending, int T, EvalSequence *out) {
    const EvalEnding *cut = &set->endings[ending];
    int64_t count = 0;
    for (int64_t predicted = 0; predicted < cut->num_tokens; count++) {
        const int targets = targets_from(predicted, cut, T);
        const int64_t end = set->items[item].context_tokens - 1 + predicted + targets; // of the input
        const int64_t first = end > T ? end - T : 0;
        if (out)
            out[count] = (EvalSequence){.item = item,
                                        .ending = ending,
                                        .num_endings = 1,
                                        .predicted = predicted,
                                        .first = first,
                                        .length = (int)(end - first)};
        predicted += targets;
    }
    return count;
}

static int64_t cut_all(const EvalSet *set, int T, EvalSequence *out) {
    int64_t count = 0;
    for (int64_t i = 0; i < set->num_items; i++) {
        const EvalItem *item = &set->items[i];
        for (int e = 0, length, share; e < item->num_endings; e += share) {
            const int64_t ending = item->first_ending + e;
            share = fitting(set, item, e, T, &length);
            if (share == 0) {
                share = 1;
                count += cut_ending(set, i, ending, T, out ? out + count : NULL);
                continue;
            }
            if (out) out[count] = (EvalSequence){.item = i, .ending = ending, .num_endings = share, .length = length};
            count++;
        }
    }
    return count;
}

static int check_lengths(const EvalSet *set, int T, Error *err) {
    if (set->kind == EVAL_DOCUMENTS) return 0;
    for (int64_t i = 0; i < set->num_items; i++) {
        const EvalItem *item = &set->items[i];
        for (int e = 0; e < item->num_endings; e++) {
            const int tokens = set->endings[item->first_ending + e].num_tokens;
            if (tokens <= T) continue;
            return fail_input(err, "%s: item %lld: ending %d has %d tokens, expected at most the sequence length %d",
                              set->path, (long long)i, e, tokens, T);
        }
    }
    return 0;
}

// ---- rows: the longest sequence first, each into the row that it leaves the least room in

static int compare_lengths(const void *a, const void *b) {
    const EvalSequence *x = a, *y = b;
    if (x->length != y->length) return x->length > y->length ? -1 : 1;
    return (x->ending > y->ending) - (x->ending < y->ending);
}

static int compare_places(const void *a, const void *b) {
    const EvalSequence *x = a, *y = b;
    if (x->row != y->row) return x->row < y->row ? -1 : 1;
    return (x->start > y->start) - (x->start < y->start);
}

// with_room[r]: a row with r places left, -1: none; next[row]: the next row with as many.
static void place_all(EvalPacking *p, int64_t *with_room, int64_t *next) {
    const int T = p->T;
    for (int room = 0; room <= T; room++) with_room[room] = -1;
    for (int64_t i = 0; i < p->num_sequences; i++) {
        EvalSequence *s = &p->sequences[i];
        int room = s->length;
        while (room < T && with_room[room] < 0) room++;
        if (with_room[room] >= 0) {
            s->row = with_room[room];
            with_room[room] = next[s->row];
        } else {
            s->row = p->num_rows++;
            room = T;
        }
        s->start = T - room;
        next[s->row] = with_room[room - s->length];
        with_room[room - s->length] = s->row;
    }
}

static void index_rows(EvalPacking *p) {
    int64_t row = 0;
    for (int64_t i = 0; i < p->num_sequences; i++)
        while (row <= p->sequences[i].row) p->row_first[row++] = i;
    p->row_first[p->num_rows] = p->num_sequences;
}

int evalpack_create(EvalPacking *out, const EvalSet *set, int T, Error *err) {
    int code = check_lengths(set, T, err);
    if (code) return code;
    EvalPacking p = {.T = T, .num_sequences = cut_all(set, T, NULL)};
    const size_t count = (size_t)p.num_sequences; // no more rows than that
    p.sequences = calloc(count + 1, sizeof *p.sequences);
    p.row_first = calloc(count + 2, sizeof *p.row_first);
    int64_t *with_room = calloc((size_t)T + 1, sizeof *with_room), *next = calloc(count + 1, sizeof *next);
    if (p.sequences && p.row_first && with_room && next) {
        cut_all(set, T, p.sequences);
        qsort(p.sequences, count, sizeof *p.sequences, compare_lengths);
        place_all(&p, with_room, next);
        qsort(p.sequences, count, sizeof *p.sequences, compare_places);
        index_rows(&p);
        *out = p;
    } else {
        evalpack_free(&p);
        code = fail_fault(err, "%s: no memory for %zu sequences", set->path, count);
    }
    free(with_room);
    free(next);
    return code;
}

void evalpack_free(EvalPacking *packing) {
    free(packing->sequences);
    free(packing->row_first);
    *packing = (EvalPacking){0};
}
