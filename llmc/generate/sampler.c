#include "generate/sampler.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

typedef struct {
    float logit;
    int32_t id;
    double weight; // probability before it is normed
} Candidate;

struct Sampler {
    int vocab_size;
    Candidate *candidates; // [vocab_size]
};

int sampler_check(const SamplerOptions *o, Error *err) {
    if (!(o->temperature >= 0 && o->temperature <= 1e6))
        return fail_input(err, "temperature %g, expected 0 to 1000000", o->temperature);
    if (o->top_k < 0) return fail_input(err, "top-k %d, expected 0 (all) or more", o->top_k);
    if (!(o->top_p > 0 && o->top_p <= 1)) return fail_input(err, "top-p %g, expected more than 0, at most 1", o->top_p);
    return 0;
}

int sampler_create(Sampler **out, int vocab_size, Error *err) {
    Sampler *s = calloc(1, sizeof *s);
    Candidate *candidates = malloc((size_t)vocab_size * sizeof *candidates);
    if (!s || !candidates) {
        free(s);
        free(candidates);
        return fail_fault(err, "no memory to draw from %d tokens", vocab_size);
    }
    s->vocab_size = vocab_size;
    s->candidates = candidates;
    *out = s;
    return 0;
}

void sampler_destroy(Sampler *s) {
    if (!s) return;
    free(s->candidates);
    free(s);
}

static int32_t largest(const float *logits, int count) {
    int best = 0;
    for (int i = 1; i < count; i++)
        if (logits[i] > logits[best] || isnan(logits[best])) best = i;
    return best;
}

// ---- cuts. Rank: larger logit first, of equal ones the smaller id.

static bool ranks_before(const Candidate *a, const Candidate *b) {
    return a->logit != b->logit ? a->logit > b->logit : a->id < b->id;
}

static int compare_rank(const void *a, const void *b) { return ranks_before(a, b) ? -1 : ranks_before(b, a); }

// Restores the heap whose root is its last in rank, after the root has changed.
static void sink(Candidate *heap, int count) {
    for (int at = 0;;) {
        int worst = at;
        for (int child = 2 * at + 1; child <= 2 * at + 2 && child < count; child++)
            if (ranks_before(&heap[worst], &heap[child])) worst = child;
        if (worst == at) return;
        Candidate moved = heap[at];
        heap[at] = heap[worst];
        heap[worst] = moved;
        at = worst;
    }
}

// The k first in rank to the front, in order.
static int cut_top_k(Candidate *c, int count, int k) {
    if (k >= count) return count;
    qsort(c, (size_t)k, sizeof *c, compare_rank);
    for (int i = 0; i < k / 2; i++) { // last in rank first: a heap
        Candidate moved = c[i];
        c[i] = c[k - 1 - i];
        c[k - 1 - i] = moved;
    }
    for (int i = k; i < count; i++)
        if (ranks_before(&c[i], &c[0])) {
            c[0] = c[i];
            sink(c, k);
        }
    return k;
}

static double total_weight(const Candidate *c, int count) {
    double total = 0;
    for (int i = 0; i < count; i++) total += c[i].weight;
    return total;
}

// Tokens so improbable that all of them together are less than what is cut need not be sorted.
static int drop_improbable(Candidate *c, int count, double least) {
    int kept = 0;
    for (int i = 0; i < count; i++)
        if (c[i].weight >= least) c[kept++] = c[i];
    return kept;
}

static int cut_top_p(Candidate *c, int count, double top_p) {
    const double total = total_weight(c, count);
    count = drop_improbable(c, count, 0.999 * (1 - top_p) * total / count);
    qsort(c, (size_t)count, sizeof *c, compare_rank);
    double sum = 0;
    for (int i = 0; i < count; i++) {
        sum += c[i].weight;
        if (sum >= top_p * total) return i + 1;
    }
    return count; // rounding left a rest
}

// ---- drawing

// Fills the candidates; returns how many there are, by rank where a cut was made, else by id.
static int collect(Sampler *s, const float *logits, const SamplerOptions *o) {
    Candidate *c = s->candidates;
    const int32_t best = largest(logits, s->vocab_size);
    if (o->temperature == 0 || !isfinite(logits[best])) {
        c[0] = (Candidate){logits[best], best, 1};
        return 1;
    }
    int count = 0;
    for (int i = 0; i < s->vocab_size; i++)
        if (!isnan(logits[i])) c[count++] = (Candidate){logits[i], i, 0};
    const bool by_rank = o->top_k > 0 && o->top_k < count;
    if (by_rank) count = cut_top_k(c, count, o->top_k);
    for (int i = 0; i < count; i++) c[i].weight = exp(((double)c[i].logit - logits[best]) / o->temperature);
    if (o->top_p < 1) return cut_top_p(c, count, o->top_p);
    if (by_rank) qsort(c, (size_t)count, sizeof *c, compare_rank);
    return count;
}

int sampler_kept(Sampler *s, const float *logits, const SamplerOptions *options, int32_t *ids, double *probabilities) {
    const int count = collect(s, logits, options);
    const double total = total_weight(s->candidates, count);
    for (int i = 0; i < count; i++) {
        ids[i] = s->candidates[i].id;
        probabilities[i] = s->candidates[i].weight / total;
    }
    return count;
}

// SplitMix64 (Steele, Lea, Flood 2014), 53 bits of it.
static double draw_uniform(uint64_t *state) {
    uint64_t x = *state += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return (double)((x ^ x >> 31) >> 11) * 0x1p-53;
}

int32_t sampler_draw(Sampler *s, const float *logits, const SamplerOptions *options, uint64_t *state) {
    const int count = collect(s, logits, options);
    const Candidate *c = s->candidates;
    const double uniform = draw_uniform(state);
    double left = uniform * total_weight(c, count);
    for (int i = 0; i < count; i++) {
        left -= c[i].weight;
        if (left < 0) return c[i].id;
    }
    return largest(logits, s->vocab_size); // rounding left a rest
}
