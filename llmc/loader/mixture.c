#include "loader/mixture.h"

#include <assert.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "loader/permutation.h"
#include "loader/share_walk.h"
#include "loader/source_order.h"
#include "loader/windows.h"

static const int64_t MAX_ROWS = (int64_t)1 << 50; // their numbers are exact in a double
static const double CREDIT_UNIT = 1 << 20;        // of a token, in a cursor

// What a span reads of a source: what is left of the range that the cursor is in, and then a range of its own.
typedef struct {
    SourceOrder order;
    MixtureCursor start; // at the span's begin
    OrderRange open, own;
    int64_t left_open;   // windows left of the first
    int64_t exhausted;   // mixture_exhausted
    int64_t passed_over; // mixture_passed_over
} Source;

struct Mixture {
    SourceSet set;
    Source *sources; // [count]
    int count, block, T;
    bool document_mask, usable; // usable: no span failed to begin
    int64_t rows;
    SourceShare *shares;      // [count]
    ShareWalk fetched, asked; // for mixture_fetch; for mixture_position, so that it may be asked about any row
    int32_t *window;          // [T + 1]
    int32_t *scratch;         // [vocab_size + 1]
};

// ---- Opening

static uint64_t hash_name(const char *name) { // FNV-1a
    uint64_t hash = 0xcbf29ce484222325u;
    for (; *name; name++) hash = (hash ^ (uint8_t)*name) * 0x100000001b3u;
    return hash;
}

static int create_order(Mixture *m, int source, uint64_t seed, double max_epochs, Error *err) {
    const SourceFiles *files = &m->set.sources[source];
    uint64_t *positions = malloc((size_t)files->count * sizeof *positions);
    if (!positions) return fail_fault(err, "no memory for %d shards", files->count);
    for (int i = 0; i < files->count; i++) positions[i] = m->set.files[files->first + i].num_tokens - 1;
    const uint64_t key = permutation_key(seed, hash_name(files->name));
    SourceOrder *order = &m->sources[source].order;
    int code = source_order_create(order, positions, files->count, m->block, key, max_epochs, err);
    free(positions);
    return code;
}

static int allocate(Mixture *m, Error *err) {
    m->sources = calloc((size_t)m->count, sizeof *m->sources);
    m->shares = calloc((size_t)m->count, sizeof *m->shares);
    m->scratch = malloc(((size_t)m->set.vocab_size + 1) * sizeof *m->scratch);
    const bool walks = share_walk_create(&m->fetched, m->count) && share_walk_create(&m->asked, m->count);
    return m->sources && m->shares && m->scratch && walks ? 0 : fail_fault(err, "mixture: no memory");
}

int mixture_open(Mixture **out, const MixtureSource *sources, int count, int block, uint64_t seed, int vocab_size,
                 const uint8_t *tokenizer_sha256, Error *err) {
    if (count < 1) return fail_input(err, "mixture: %d sources, expected at least 1", count);
    if (block < 1) return fail_input(err, "mixture: blocks of %d positions, expected at least 1", block);
    if (vocab_size < 1) return fail_input(err, "mixture: vocab_size is %d, expected at least 1", vocab_size);
    Mixture *m = calloc(1, sizeof *m);
    if (!m) return fail_fault(err, "mixture: no memory");
    m->usable = true;
    m->count = count;
    m->block = block;
    int code = source_set_open(&m->set, sources, count, vocab_size, tokenizer_sha256, err);
    if (!code) code = allocate(m, err);
    for (int i = 0; i < count && !code; i++) code = create_order(m, i, seed, sources[i].max_epochs, err);
    if (code)
        mixture_close(m);
    else
        *out = m;
    return code;
}

void mixture_close(Mixture *m) {
    if (!m) return;
    for (int i = 0; m->sources && i < m->count; i++) source_order_free(&m->sources[i].order);
    source_set_close(&m->set);
    share_walk_free(&m->fetched);
    share_walk_free(&m->asked);
    free(m->sources);
    free(m->shares);
    free(m->window);
    free(m->scratch);
    free(m);
}

// ---- Beginning a span

static int check_span(const Mixture *m, const MixtureSpan *span, Error *err) {
    if (span->T < 1 || m->block % span->T != 0)
        return fail_input(err, "mixture: windows of %d tokens, expected a divisor of the blocks' %d", span->T,
                          m->block);
    if (span->rows < 1 || span->rows > MAX_ROWS)
        return fail_input(err, "mixture: a span of %lld rows, expected 1 to %lld", (long long)span->rows,
                          (long long)MAX_ROWS);
    if (span->document_mask && m->set.files[0].bos_id == SHARD_NO_ID)
        return fail_input(err, "%s: no begin-of-document id, expected one for the document mask", m->set.files[0].path);
    return 0;
}

// Shares are weights over their sum.
static int set_shares(Mixture *m, const MixtureSpan *span, Error *err) {
    const double *const first = span->weights, *const last = span->weights_at_end ? span->weights_at_end : first;
    double sum_first = 0, sum_last = 0;
    for (int i = 0; i < m->count; i++) {
        if (!(first[i] >= 0 && last[i] >= 0))
            return fail_input(err, "source %s: weights %g and %g, expected no less than 0", m->set.sources[i].name,
                              first[i], last[i]);
        sum_first += first[i];
        sum_last += last[i];
    }
    if (!(sum_first > 0 && sum_last > 0 && isfinite(sum_first) && isfinite(sum_last)))
        return fail_input(err, "mixture: the weights add up to %g and %g, expected more than 0", sum_first, sum_last);
    for (int i = 0; i < m->count; i++) {
        m->shares[i].share = first[i] / sum_first;
        m->shares[i].slope = last[i] / sum_last - m->shares[i].share;
    }
    return 0;
}

// Of a file that a person may have changed.
static bool is_range(Source *s, int block) {
    const MixtureCursor *c = &s->start;
    if (c->windows == 0 && c->taken == 0) return true;
    if (c->length < 1 || c->length > block || block % c->length != 0) return false;
    source_order_set_length(&s->order, (int)c->length);
    return s->order.windows > 0 && c->taken >= 0 && c->taken <= c->windows && c->taken <= c->tokens / c->length;
}

// One that was computed from another block's may lie behind the last block.
static void wrap_cursor(Source *s) {
    MixtureCursor *c = &s->start;
    if (c->offset != 0 || c->windows != 0 || c->place < 0 || (uint64_t)c->place < s->order.num_blocks) return;
    c->epoch++;
    c->place = 0;
}

static int check_cursor(const Mixture *m, int source, Error *err) {
    Source *s = &m->sources[source];
    const int block = m->block;
    const MixtureCursor *c = &s->start;
    const bool place = c->epoch >= 0 && c->place >= 0 && (uint64_t)c->place < s->order.num_blocks && c->offset >= 0 &&
                       c->offset < block && c->tokens >= 0;
    const bool range = place && is_range(s, block);
    if (range) return 0;
    return fail_input(err,
                      "source %s: its position (epoch %lld, block %lld, offset %lld, %lld of %lld windows of %lld) is "
                      "outside its %llu blocks of %d positions",
                      m->set.sources[source].name, (long long)c->epoch, (long long)c->place, (long long)c->offset,
                      (long long)c->taken, (long long)c->windows, (long long)c->length,
                      (unsigned long long)s->order.num_blocks, block);
}

static OrderPlace place_of(const MixtureCursor *c) {
    return (OrderPlace){(uint64_t)c->epoch, (uint64_t)c->place, (uint64_t)c->offset};
}

static void put_range(MixtureCursor *c, const OrderRange *range, int64_t taken) {
    c->epoch = (int64_t)range->begin.epoch;
    c->place = (int64_t)range->begin.place;
    c->offset = (int64_t)range->begin.offset;
    c->windows = (int64_t)range->windows;
    c->taken = taken;
}

// Opens the cursor's range, or the place where it ends if nothing of it is left, or nothing for windows of T. Returns how many
// windows may be read from there on.
static int64_t open_range(Source *s, int T) {
    MixtureCursor *c = &s->start;
    OrderRange range = {.begin = place_of(c)};
    if (c->windows > 0 && (c->length != T || c->taken == c->windows)) {
        source_order_set_length(&s->order, (int)c->length);
        range = source_order_range(&s->order, range.begin, (uint64_t)c->windows);
        range = (OrderRange){.begin = source_order_end(&s->order, &range, (uint64_t)c->taken)};
        put_range(c, &range, 0);
    }
    c->length = T;
    source_order_set_length(&s->order, T);
    s->open = source_order_range(&s->order, range.begin, (uint64_t)c->windows);
    s->left_open = c->windows - c->taken;
    s->own = source_order_range(&s->order, source_order_end(&s->order, &s->open, s->open.windows), 0);
    s->passed_over = (int64_t)source_order_positions(&s->order, range.begin) - (c->tokens - c->taken * T);
    const uint64_t left = source_order_left(&s->order, s->own.begin), most = (uint64_t)(INT64_MAX - s->left_open);
    return s->left_open + (int64_t)(left < most ? left : most);
}

static int fail_short(const Mixture *m, int source, Error *err) {
    int count;
    const DataFile *const files = mixture_files(m, source, &count), *longest = files;
    for (int i = 1; i < count; i++)
        if (files[i].num_tokens > longest->num_tokens) longest = &files[i];
    return fail_input(err, "%s: %llu tokens, and no shard of source %s has more, expected at least %d for one window",
                      longest->path, (unsigned long long)longest->num_tokens, m->set.sources[source].name, m->T + 1);
}

static int open_ranges(Mixture *m, Error *err) {
    for (int i = 0; i < m->count; i++) {
        Source *s = &m->sources[i];
        wrap_cursor(s);
        int code = check_cursor(m, i, err);
        if (code) return code;
        m->shares[i].left = open_range(s, m->T);
        m->shares[i].credit = (double)s->start.credit / (CREDIT_UNIT * m->T);
        if (!share_is_used(&m->shares[i]) || s->order.windows > 0) continue;
        return fail_short(m, i, err);
    }
    return 0;
}

static int fail_used_up(const Mixture *m, Error *err) {
    char list[700] = "";
    size_t length = 0;
    for (int i = 0; i < m->count && length < sizeof list - 1; i++) {
        if (!share_is_used(&m->shares[i])) continue;
        length += (size_t)snprintf(list + length, sizeof list - length, "%s%s (%llu tokens, max_epochs %g)",
                                   length ? ", " : "", m->set.sources[i].name,
                                   (unsigned long long)m->set.sources[i].num_tokens, m->sources[i].order.max_epochs);
    }
    return fail_input(err, "after %lld of %lld tokens the sources are used up: %s: expected more data or max_epochs",
                      (long long)m->asked.row * m->T, (long long)m->rows * m->T, list);
}

// How many rows each source has, and so its own range.
static int count_rows(Mixture *m, Error *err) {
    ShareWalk *walk = &m->asked;
    share_walk_begin(walk, m->shares, m->rows);
    share_walk_begin(&m->fetched, m->shares, m->rows);
    for (int i = 0; i < m->count; i++)
        m->sources[i].exhausted = share_is_used(&m->shares[i]) && m->shares[i].left == 0 ? 0 : -1;
    while (walk->row < m->rows && walk->num_active > 0) {
        const int active = walk->num_active, source = share_walk_next(walk);
        if (walk->num_active < active && walk->row < m->rows) m->sources[source].exhausted = walk->row;
    }
    if (walk->row < m->rows) return fail_used_up(m, err);
    for (int i = 0; i < m->count; i++) {
        Source *s = &m->sources[i];
        if (walk->taken[i] > s->left_open) s->own.windows = (uint64_t)(walk->taken[i] - s->left_open);
    }
    return 0;
}

// Of a source once the rows that `asked` has walked were read.
static MixtureCursor cursor_of(const Mixture *m, int source) {
    const Source *s = &m->sources[source];
    MixtureCursor c = s->start;
    const int64_t taken = m->asked.taken[source];
    const double credit = m->asked.credit[source];
    c.tokens += taken * m->T;
    if (isfinite(credit)) c.credit = llround(credit * CREDIT_UNIT * m->T);
    if (s->own.windows > 0 && taken >= s->left_open)
        put_range(&c, &s->own, taken - s->left_open);
    else
        c.taken += taken;
    return c;
}

int mixture_begin(Mixture *m, const MixtureSpan *span, const MixtureCursor *at, Error *err) {
    int code = check_span(m, span, err);
    if (code) return code;
    assert(at || m->usable);
    if (!at && m->T) share_walk_to(&m->asked, m->rows);
    for (int i = 0; i < m->count; i++) {
        const MixtureCursor none = {0};
        m->sources[i].start = at ? at[i] : m->T ? cursor_of(m, i) : none;
    }
    m->usable = false;
    free(m->window);
    m->window = malloc(((size_t)span->T + 1) * sizeof *m->window);
    if (!m->window) return fail_fault(err, "mixture: no memory for windows of %d tokens", span->T);
    m->T = span->T;
    m->rows = span->rows;
    m->document_mask = span->document_mask;
    code = set_shares(m, span, err);
    if (!code) code = open_ranges(m, err);
    if (!code) code = count_rows(m, err);
    m->usable = !code;
    return code;
}

// ---- Fetching, and how far it got

static int fill_row(Mixture *m, int row, Batch *out, Error *err) {
    const int source = share_walk_next(&m->fetched);
    Source *s = &m->sources[source];
    const int64_t k = m->fetched.taken[source] - 1;
    const bool own = k >= s->left_open;
    int shard;
    uint64_t first;
    source_order_find(&s->order, own ? &s->own : &s->open, (uint64_t)(own ? k - s->left_open : s->start.taken + k),
                      &shard, &first);
    const WindowRow to = {.scratch = m->window, .row = row, .T = m->T, .document_mask = m->document_mask};
    return windows_read(&m->set.shards[m->set.sources[source].first + shard], &to, first, out, err);
}

int mixture_fetch(Mixture *m, int64_t first_row, int B, Batch *out, Error *err) {
    assert(m->usable && first_row >= 0 && B >= 1 && B < INT_MAX / m->T && first_row <= m->rows - B);
    share_walk_to(&m->fetched, first_row);
    out->num_targets = out->num_answers = out->num_groups = 0;
    for (int row = 0; row < B; row++) {
        int code = fill_row(m, row, out, err);
        if (code) return code;
    }
    batch_sort(out->tokens, out->order, B * m->T, m->scratch, m->set.vocab_size);
    return 0;
}

void mixture_position(Mixture *m, int64_t row, MixtureCursor *by_source) {
    assert(row >= 0 && row <= m->rows);
    share_walk_to(&m->asked, row);
    for (int i = 0; i < m->count; i++) by_source[i] = cursor_of(m, i);
}

void mixture_epochs(Mixture *m, int64_t row, double *by_source) {
    assert(row >= 0 && row <= m->rows);
    share_walk_to(&m->asked, row);
    for (int i = 0; i < m->count; i++) {
        const Source *s = &m->sources[i];
        const uint64_t read = s->open.before + (uint64_t)(s->start.taken + m->asked.taken[i]);
        by_source[i] = (double)s->open.begin.epoch + (read ? (double)read / (double)s->order.windows : 0);
    }
}

int64_t mixture_exhausted(const Mixture *m, int source) { return m->sources[source].exhausted; }
int64_t mixture_passed_over(const Mixture *m, int source) { return m->sources[source].passed_over; }

void mixture_shares(const Mixture *m, int64_t row, double *shares) {
    const double x = ((double)row + 0.5) / (double)m->rows;
    double sum = 0;
    for (int i = 0; i < m->count; i++) {
        const bool used_up = m->sources[i].exhausted >= 0 && m->sources[i].exhausted <= row;
        shares[i] = used_up ? 0 : m->shares[i].share + m->shares[i].slope * x;
        sum += shares[i];
    }
    for (int i = 0; i < m->count; i++) shares[i] /= sum;
}

// ---- What the sources are

const DataFile *mixture_files(const Mixture *m, int source, int *count) {
    *count = m->set.sources[source].count;
    return &m->set.files[m->set.sources[source].first];
}

uint64_t mixture_fingerprint(const Mixture *m, int source) {
    int count;
    const DataFile *const files = mixture_files(m, source, &count);
    return data_file_fingerprint(files, count);
}

uint64_t mixture_tokens(const Mixture *m, int source) { return m->set.sources[source].num_tokens; }

int mixture_refuse_overlap(const Mixture *m, const Loader *val, const char *owner, Error *err) {
    return source_set_refuse_overlap(&m->set, val, owner, err);
}
