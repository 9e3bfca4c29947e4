// Opening the sources, which of them a row is of, and batches. Where in its source a row lies is in source_order.c.
#include "loader/mixture.h"

#include <assert.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/match.h"
#include "loader/overlap.h"
#include "loader/permutation.h"
#include "loader/source_order.h"
#include "loader/windows.h"

static const int64_t MAX_ROWS = (int64_t)1 << 50; // their numbers are exact in a double
static const double CREDIT_UNIT = 1 << 20;        // of a token, in a cursor

typedef struct {
    char *name;
    double max_epochs;
    int first_file, num_files;
    uint64_t num_tokens;
    SourceOrder order;
    MixtureCursor start; // at the span's begin
    // The span reads what is left of the range that the cursor is in, and then a range of its own.
    OrderRange open, own;
    int64_t left_open, left; // windows left of the first, and all that the span may read
    int64_t exhausted;       // mixture_exhausted
    int64_t passed_over;     // mixture_passed_over
    double share, slope;     // if no source is used up: share + slope * x, x from 0 to 1 over the span
} Source;

// A walk over a span's rows. The arrays have an entry a source.
typedef struct {
    int64_t row;
    int num_active;        // sources that have a share
    int64_t *taken;        // rows of the source
    double *credit;        // minus infinity: it has no share
    double *share, *slope; // as in Source, or 0
    double sum_share, sum_slope;
} Walk;

struct Mixture {
    Source *sources;
    int count, block, T;
    bool document_mask;
    int64_t rows;
    Walk fetched, asked; // for mixture_fetch; for mixture_position, so that it may be asked about any row
    Shard *shards;       // [num_files]
    DataFile *files;     // [num_files], those of a source one after the other
    int num_files, vocab_size;
    int32_t *window;  // [block + 1]
    int32_t *scratch; // [vocab_size + 1]
};

// ---- Opening

static uint64_t hash_name(const char *name) { // FNV-1a
    uint64_t hash = 0xcbf29ce484222325u;
    for (; *name; name++) hash = (hash ^ (uint8_t)*name) * 0x100000001b3u;
    return hash;
}

static int open_file(Mixture *m, const char *path, const uint8_t *tokenizer_sha256, Error *err) {
    DataFile *file = &m->files[m->num_files];
    int code = data_file_check_kind(path, LOADER_DOCUMENTS, NULL, err);
    if (!code) code = windows_open_shard(&m->shards[m->num_files], path, m->vocab_size, file, err);
    if (code) return code;
    m->num_files++;
    if (file->num_tokens < 2)
        return fail_input(err, "%s: %llu tokens, expected at least 2", path, (unsigned long long)file->num_tokens);
    return data_file_check(file, &m->files[0], m->vocab_size, tokenizer_sha256, err);
}

static int open_source(Mixture *m, Source *source, const FileList *list, uint64_t seed, const uint8_t *tokenizer_sha256,
                       Error *err) {
    int code = 0;
    source->first_file = m->num_files;
    source->num_files = (int)list->count;
    for (size_t i = 0; i < list->count && !code; i++) code = open_file(m, list->paths[i], tokenizer_sha256, err);
    if (code) return code;
    uint64_t *positions = malloc(list->count * sizeof *positions);
    if (!positions) return fail_fault(err, "no memory for %zu files", list->count);
    for (size_t i = 0; i < list->count; i++) {
        const uint64_t tokens = m->files[source->first_file + (int)i].num_tokens;
        source->num_tokens += tokens;
        positions[i] = tokens - 1;
    }
    code = source_order_create(&source->order, positions, source->num_files, m->block,
                               permutation_key(seed, hash_name(source->name)), source->max_epochs, err);
    free(positions);
    return code;
}

static const char *owner_of(const Mixture *m, const DataFile *file) {
    int i = 0;
    while (file >= &m->files[m->sources[i].first_file + m->sources[i].num_files]) i++;
    return m->sources[i].name;
}

static const char *owner_of_path(const Mixture *m, const char *path) {
    int i = 0;
    while (m->files[i].path != path) i++;
    return owner_of(m, &m->files[i]);
}

// A file that is there twice would break the promise that nothing is read twice before an epoch ends.
static int refuse_twins(const Mixture *m, Error *err) {
    const char *first, *second;
    if (!overlap_count_duplicates(m->files, m->num_files, &first, &second)) return 0;
    return fail_input(err, "%s of source %s is the same file as %s of source %s, expected every file once", second,
                      owner_of_path(m, second), first, owner_of_path(m, first));
}

static bool walk_create(Walk *walk, size_t count) {
    walk->taken = calloc(count, sizeof *walk->taken);
    walk->credit = calloc(3 * count, sizeof *walk->credit);
    if (!walk->taken || !walk->credit) return false;
    walk->share = walk->credit + count;
    walk->slope = walk->share + count;
    return true;
}

static void walk_free(Walk *walk) {
    free(walk->taken);
    free(walk->credit);
}

static int allocate(Mixture *m, size_t num_files, Error *err) {
    const size_t count = (size_t)m->count;
    if (num_files > INT_MAX) return fail_input(err, "mixture: %zu files, expected at most %d", num_files, INT_MAX);
    m->shards = calloc(num_files, sizeof *m->shards);
    m->files = calloc(num_files, sizeof *m->files);
    m->window = malloc(((size_t)m->block + 1) * sizeof *m->window);
    m->scratch = malloc(((size_t)m->vocab_size + 1) * sizeof *m->scratch);
    const bool walks = walk_create(&m->fetched, count) && walk_create(&m->asked, count);
    if (!m->shards || !m->files || !m->window || !m->scratch || !walks)
        return fail_fault(err, "mixture: no memory for %zu files", num_files);
    return 0;
}

static int match_source(Source *source, const MixtureSource *from, FileList *list, Error *err) {
    source->name = strdup(from->name);
    source->max_epochs = from->max_epochs;
    if (!source->name) return fail_fault(err, "mixture: no memory");
    int code = file_match(list, from->pattern, "shard", err);
    if (!code || !err) return code;
    const Error said = *err;
    return code == ERROR_INPUT ? fail_input(err, "source %s: %s", from->name, said.message)
                               : fail_fault(err, "source %s: %s", from->name, said.message);
}

static int open_all(Mixture *m, const MixtureSource *sources, FileList *lists, uint64_t seed,
                    const uint8_t *tokenizer_sha256, Error *err) {
    size_t num_files = 0;
    for (int i = 0; i < m->count; i++) {
        int code = match_source(&m->sources[i], &sources[i], &lists[i], err);
        if (code) return code;
        num_files += lists[i].count;
    }
    int code = allocate(m, num_files, err);
    for (int i = 0; i < m->count && !code; i++)
        code = open_source(m, &m->sources[i], &lists[i], seed, tokenizer_sha256, err);
    return code ? code : refuse_twins(m, err);
}

int mixture_open(Mixture **out, const MixtureSource *sources, int count, int block, uint64_t seed, int vocab_size,
                 const uint8_t *tokenizer_sha256, Error *err) {
    if (count < 1) return fail_input(err, "mixture: %d sources, expected at least 1", count);
    if (block < 1) return fail_input(err, "mixture: blocks of %d positions, expected at least 1", block);
    if (vocab_size < 1) return fail_input(err, "mixture: vocab_size is %d, expected at least 1", vocab_size);
    Mixture *m = calloc(1, sizeof *m);
    FileList *lists = calloc((size_t)count, sizeof *lists);
    if (m) *m = (Mixture){.count = count, .block = block, .vocab_size = vocab_size};
    if (m) m->sources = calloc((size_t)count, sizeof *m->sources);
    int code = m && lists && m->sources ? open_all(m, sources, lists, seed, tokenizer_sha256, err)
                                        : fail_fault(err, "mixture: no memory");
    for (int i = 0; lists && i < count; i++) file_list_free(&lists[i]);
    free(lists);
    if (code)
        mixture_close(m);
    else
        *out = m;
    return code;
}

void mixture_close(Mixture *m) {
    if (!m) return;
    for (int i = 0; m->sources && i < m->count; i++) {
        free(m->sources[i].name);
        source_order_free(&m->sources[i].order);
    }
    for (int i = 0; i < m->num_files; i++) shard_close(&m->shards[i]);
    free(m->sources);
    free(m->shards);
    free(m->files);
    free(m->window);
    free(m->scratch);
    walk_free(&m->fetched);
    walk_free(&m->asked);
    free(m);
}

// ---- Which source a row is of

static bool is_used(const Source *s) { return s->share > 0 || s->share + s->slope > 0; }

static void walk_drop(Walk *walk, int source, int count) {
    walk->share[source] = walk->slope[source] = 0;
    walk->credit[source] = -INFINITY;
    walk->num_active--;
    walk->sum_share = walk->sum_slope = 0;
    for (int i = 0; i < count; i++) {
        walk->sum_share += walk->share[i];
        walk->sum_slope += walk->slope[i];
    }
}

static void walk_restart(Walk *walk, const Mixture *m) {
    walk->row = 0;
    walk->num_active = m->count;
    for (int i = 0; i < m->count; i++) {
        walk->taken[i] = 0;
        walk->share[i] = m->sources[i].share;
        walk->slope[i] = m->sources[i].slope;
        walk->credit[i] = (double)m->sources[i].start.credit / (CREDIT_UNIT * m->T);
    }
    walk->sum_share = 1;
    walk->sum_slope = 0;
    for (int i = 0; i < m->count; i++)
        if (!is_used(&m->sources[i]) || m->sources[i].left == 0) walk_drop(walk, i, m->count);
}

// Returns the source of the next row, of which at least one is not used up.
static int walk_next(Walk *walk, const Mixture *m) {
    const double x = ((double)walk->row + 0.5) / (double)m->rows;
    const double scale = 1 / (walk->sum_share + walk->sum_slope * x);
    int best = 0;
    for (int i = 0; i < m->count; i++) {
        walk->credit[i] += (walk->share[i] + walk->slope[i] * x) * scale;
        if (walk->credit[i] > walk->credit[best]) best = i;
    }
    walk->credit[best] -= 1;
    walk->row++;
    if (++walk->taken[best] == m->sources[best].left) walk_drop(walk, best, m->count);
    return best;
}

static void walk_to(Walk *walk, const Mixture *m, int64_t row) {
    if (row < walk->row) walk_restart(walk, m);
    while (walk->row < row) walk_next(walk, m);
}

// ---- Beginning a span

static int check_span(const Mixture *m, const MixtureSpan *span, Error *err) {
    if (span->T < 1 || m->block % span->T != 0)
        return fail_input(err, "mixture: windows of %d tokens, expected a divisor of the blocks' %d", span->T,
                          m->block);
    if (span->rows < 1 || span->rows > MAX_ROWS)
        return fail_input(err, "mixture: a span of %lld rows, expected 1 to %lld", (long long)span->rows,
                          (long long)MAX_ROWS);
    if (span->document_mask && m->files[0].bos_id == SHARD_NO_ID)
        return fail_input(err, "%s: no begin-of-document id, expected one for the document mask", m->files[0].path);
    return 0;
}

static int set_shares(Mixture *m, const MixtureSpan *span, Error *err) {
    const double *const first = span->weights, *const last = span->weights_at_end ? span->weights_at_end : first;
    double sum_first = 0, sum_last = 0;
    for (int i = 0; i < m->count; i++) {
        if (!(first[i] >= 0 && last[i] >= 0))
            return fail_input(err, "source %s: weights %g and %g, expected no less than 0", m->sources[i].name,
                              first[i], last[i]);
        sum_first += first[i];
        sum_last += last[i];
    }
    if (!(sum_first > 0 && sum_last > 0 && isfinite(sum_first) && isfinite(sum_last)))
        return fail_input(err, "mixture: the weights add up to %g and %g, expected more than 0", sum_first, sum_last);
    for (int i = 0; i < m->count; i++) {
        m->sources[i].share = first[i] / sum_first;
        m->sources[i].slope = last[i] / sum_last - m->sources[i].share;
    }
    return 0;
}

static int check_cursor(const Source *s, int block, Error *err) {
    const MixtureCursor *c = &s->start;
    const bool place = c->epoch >= 0 && c->place >= 0 && (uint64_t)c->place < s->order.num_blocks && c->offset >= 0 &&
                       c->offset < block && c->tokens >= 0;
    const bool range = c->windows >= 0 && c->taken >= 0 && c->taken <= c->windows &&
                       (c->windows == 0 || (c->length >= 1 && block % c->length == 0));
    if (place && range) return 0;
    return fail_input(err,
                      "source %s: its position (epoch %lld, block %lld, offset %lld, %lld of %lld windows of %lld) is "
                      "outside its %llu blocks of %d positions",
                      s->name, (long long)c->epoch, (long long)c->place, (long long)c->offset, (long long)c->taken,
                      (long long)c->windows, (long long)c->length, (unsigned long long)s->order.num_blocks, block);
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

// The cursor's range, or where it ends if nothing of it is left, or nothing that windows of T can be cut from.
static void open_range(Source *s, int T) {
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
    const uint64_t left = source_order_left(&s->order, s->own.begin), most = (uint64_t)(INT64_MAX - s->left_open);
    s->left = s->left_open + (int64_t)(left < most ? left : most);
    s->passed_over = (int64_t)source_order_positions(&s->order, range.begin) - (c->tokens - c->taken * T);
}

static const DataFile *longest_file(const Mixture *m, const Source *s) {
    const DataFile *longest = &m->files[s->first_file];
    for (int i = 1; i < s->num_files; i++)
        if (m->files[s->first_file + i].num_tokens > longest->num_tokens) longest = &m->files[s->first_file + i];
    return longest;
}

static int open_ranges(Mixture *m, Error *err) {
    for (int i = 0; i < m->count; i++) {
        Source *s = &m->sources[i];
        int code = check_cursor(s, m->block, err);
        if (code) return code;
        open_range(s, m->T);
        if (!is_used(s) || s->order.windows > 0) continue;
        const DataFile *longest = longest_file(m, s);
        return fail_input(err,
                          "%s: %llu tokens, and no shard of source %s has more, expected at least %d for one window",
                          longest->path, (unsigned long long)longest->num_tokens, s->name, m->T + 1);
    }
    return 0;
}

static int fail_used_up(const Mixture *m, Error *err) {
    char list[700] = "";
    size_t length = 0;
    for (int i = 0; i < m->count && length < sizeof list - 1; i++) {
        const Source *s = &m->sources[i];
        if (!is_used(s)) continue;
        length += (size_t)snprintf(list + length, sizeof list - length, "%s%s (%llu tokens, max_epochs %g)",
                                   length ? ", " : "", s->name, (unsigned long long)s->num_tokens, s->max_epochs);
    }
    return fail_input(err, "after %lld of %lld tokens the sources are used up: %s: expected more data or max_epochs",
                      (long long)m->asked.row * m->T, (long long)m->rows * m->T, list);
}

// How many rows each source has, and so its own range.
static int count_rows(Mixture *m, Error *err) {
    Walk *walk = &m->asked;
    walk_restart(walk, m);
    for (int i = 0; i < m->count; i++)
        m->sources[i].exhausted = is_used(&m->sources[i]) && m->sources[i].left == 0 ? 0 : -1;
    while (walk->row < m->rows && walk->num_active > 0) {
        const int active = walk->num_active, source = walk_next(walk, m);
        if (walk->num_active < active && walk->row < m->rows) m->sources[source].exhausted = walk->row;
    }
    if (walk->row < m->rows) return fail_used_up(m, err);
    for (int i = 0; i < m->count; i++) {
        Source *s = &m->sources[i];
        if (walk->taken[i] > s->left_open) s->own.windows = (uint64_t)(walk->taken[i] - s->left_open);
    }
    walk_restart(&m->fetched, m);
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
    if (!at && m->T) walk_to(&m->asked, m, m->rows);
    for (int i = 0; i < m->count; i++) {
        Source *s = &m->sources[i];
        const MixtureCursor none = {0};
        s->start = at ? at[i] : m->T ? cursor_of(m, i) : none;
    }
    m->T = span->T;
    m->rows = span->rows;
    m->document_mask = span->document_mask;
    code = set_shares(m, span, err);
    if (!code) code = open_ranges(m, err);
    return code ? code : count_rows(m, err);
}

// ---- Fetching, and how far it got

static int fill_row(Mixture *m, int row, Batch *out, Error *err) {
    const int source = walk_next(&m->fetched, m);
    Source *s = &m->sources[source];
    const int64_t k = m->fetched.taken[source] - 1;
    const bool own = k >= s->left_open;
    int shard;
    uint64_t first;
    source_order_find(&s->order, own ? &s->own : &s->open, (uint64_t)(own ? k - s->left_open : s->start.taken + k),
                      &shard, &first);
    const WindowRow to = {.scratch = m->window, .row = row, .T = m->T, .document_mask = m->document_mask};
    return windows_read(&m->shards[s->first_file + shard], &to, first, out, err);
}

int mixture_fetch(Mixture *m, int64_t first_row, int B, Batch *out, Error *err) {
    assert(first_row >= 0 && B >= 1 && B < INT_MAX / m->T && first_row <= m->rows - B);
    walk_to(&m->fetched, m, first_row);
    out->num_targets = out->num_answers = out->num_groups = 0;
    for (int row = 0; row < B; row++) {
        int code = fill_row(m, row, out, err);
        if (code) return code;
    }
    batch_sort(out->tokens, out->order, B * m->T, m->scratch, m->vocab_size);
    return 0;
}

void mixture_position(Mixture *m, int64_t row, MixtureCursor *by_source) {
    assert(row >= 0 && row <= m->rows);
    walk_to(&m->asked, m, row);
    for (int i = 0; i < m->count; i++) by_source[i] = cursor_of(m, i);
}

void mixture_epochs(Mixture *m, int64_t row, double *by_source) {
    walk_to(&m->asked, m, row);
    for (int i = 0; i < m->count; i++) {
        const Source *s = &m->sources[i];
        const int64_t k = m->asked.taken[i];
        const bool own = s->own.windows > 0 && k >= s->left_open;
        const OrderRange *range = own ? &s->own : &s->open;
        const uint64_t read = range->before + (uint64_t)(own ? k - s->left_open : s->start.taken + k);
        by_source[i] = (double)range->begin.epoch + (read ? (double)read / (double)s->order.windows : 0);
    }
}

int64_t mixture_exhausted(const Mixture *m, int source) { return m->sources[source].exhausted; }
int64_t mixture_passed_over(const Mixture *m, int source) { return m->sources[source].passed_over; }

void mixture_shares(const Mixture *m, int64_t row, double *shares) {
    const double x = ((double)row + 0.5) / (double)m->rows;
    double sum = 0;
    for (int i = 0; i < m->count; i++) {
        const Source *s = &m->sources[i];
        const bool used_up = s->exhausted >= 0 && s->exhausted <= row;
        shares[i] = used_up ? 0 : s->share + s->slope * x;
        sum += shares[i];
    }
    for (int i = 0; i < m->count; i++) shares[i] /= sum;
}

// ---- What the sources are

const DataFile *mixture_files(const Mixture *m, int source, int *count) {
    *count = m->sources[source].num_files;
    return &m->files[m->sources[source].first_file];
}

uint64_t mixture_fingerprint(const Mixture *m, int source) {
    return data_file_fingerprint(&m->files[m->sources[source].first_file], m->sources[source].num_files);
}

uint64_t mixture_tokens(const Mixture *m, int source) { return m->sources[source].num_tokens; }

int mixture_refuse_overlap(const Mixture *m, const Loader *val, const char *owner, Error *err) {
    int count;
    const DataFile *const files = loader_files(val, &count);
    Overlap found;
    int code = overlap_find(m->files, m->num_files, files, count, &found, err);
    if (code || !found.val) return code;
    return fail_input(err,
                      "%s: source %s has it for validation and source %s for training%s%s%s, expected validation data "
                      "that are not trained on",
                      found.val->path, owner, owner_of(m, found.train), found.copy ? ", as " : "",
                      found.copy ? found.train->path : "", found.copy ? ", a file of the same content" : "");
}
