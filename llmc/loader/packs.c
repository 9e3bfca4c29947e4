#include "loader/packs.h"

#include <assert.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "loader/packing.h"
#include "loader/permutation.h"
#include "loader/rows.h"

enum { MAX_META_BYTES = 1 << 24 };

// A row that fits into a pack.
typedef struct {
    int file;
    uint64_t row;    // of the file
    uint64_t number; // of the row in the whole set
    uint64_t answer; // number of its first answer in the whole set
} PlacedRow;

// The rows that do not fit into T.
typedef struct {
    uint64_t count, longest; // longest: positions
    const RowFile *file;     // of the first
    uint64_t row;
} TooLong;

struct Packs {
    LoaderSpec spec;
    RowFile *files;
    int num_files;
    PlacedRow *rows;                                            // [num_rows], of all files
    uint64_t num_rows, num_answers, num_positions;              // num_positions: of rows
    TooLong too_long;
    Packing packing;                                            // of `rows`
    uint32_t *tokens;                                           // [T] of a row
};

// ---- Opening

int packs_create(Packs **out, const LoaderSpec *spec, size_t max_files, Error *err) {
    Packs *p = calloc(1, sizeof *p);
    if (!p) return fail_fault(err, "loader: no memory");
    p->spec = *spec;
    p->files = calloc(max_files, sizeof *p->files);
    p->tokens = malloc((size_t)spec->T * sizeof *p->tokens);
    *out = p; // closed by the caller, whatever it has
    return p->files && p->tokens ? 0 : fail_fault(err, "loader: no memory for %zu row files", max_files);
}

static LoaderKind kind_of(const RowFile *file) {
    return file->kind == ROWS_CONVERSATIONS ? LOADER_CONVERSATIONS : LOADER_COMPARISONS;
}

int packs_add(Packs *p, const char *path, DataFile *file, Error *err) {
    RowFile *opened = &p->files[p->num_files];
    int code = rows_open(opened, path, err);
    if (code) return code;
    p->num_files++;
    *file = (DataFile){.path = opened->path,
                       .kind = kind_of(opened),
                       .token_bits = 32,
                       .vocab_size = opened->vocab_size,
                       .bos_id = opened->bos_id,
                       .eos_id = opened->eos_id,
                       .num_tokens = opened->num_tokens,
                       .num_rows = opened->num_rows,
                       .tokenizer_sha256 = opened->tokenizer_sha256,
                       .digest = opened->digest.text};
    if (file->kind != p->spec.kind) return data_file_refuse_kind(path, file->kind, p->spec.kind, err);
    return 0;
}

// ---- Making packs

// A conversation's tokens; of a comparison the prompt's last token stands before each of the answers.
static uint64_t positions_of(const Row *row) {
    const int answers = row_num_answers(row);
    return row_tokens(row) + (uint64_t)answers - (answers > 0);
}

static void note_long(TooLong *too_long, const RowFile *file, uint64_t row) {
    const uint64_t positions = positions_of(&file->rows[row]);
    if (too_long->count++ == 0) {
        too_long->file = file;
        too_long->row = row;
    }
    if (positions > too_long->longest) too_long->longest = positions;
}

// text = where a row was made from: "line 7 of chats.jsonl", as far as the meta.json beside its file tells.
static void describe_source(char *text, size_t capacity, const char *path, const Row *row) {
    const char *slash = strrchr(path, '/');
    const int folder = slash ? (int)(slash - path) + 1 : 0;
    char meta_path[PATH_MAX];
    cJSON *meta = NULL;
    const bool fits = snprintf(meta_path, sizeof meta_path, "%.*smeta.json", folder, path) < (int)sizeof meta_path;
    if (fits) json_read_object(&meta, meta_path, MAX_META_BYTES, NULL);
    const cJSON *sources = json_get(meta, "sources");
    const bool listed = cJSON_IsArray(sources) && row->source < (uint32_t)cJSON_GetArraySize(sources);
    const cJSON *source = listed ? cJSON_GetArrayItem(sources, (int)row->source) : NULL;
    const char *name = cJSON_GetStringValue(json_get(source, "path"));
    if (name)
        snprintf(text, capacity, "line %u of %.200s", row->line, name);
    else
        snprintf(text, capacity, "line %u of source %u", row->line, row->source);
    cJSON_Delete(meta);
}

void packs_describe_skipped(const Packs *p, char *text, size_t capacity) {
    const TooLong *first = &p->too_long;
    const Row *row = &first->file->rows[first->row];
    char source[256];
    describe_source(source, sizeof source, first->file->path, row);
    snprintf(text, capacity, "%s: row %llu (%s) takes %llu positions", first->file->path,
             (unsigned long long)first->row + 1, source, (unsigned long long)positions_of(row));
}

static int refuse_long(const Packs *p, Error *err) {
    char first[LOADER_SKIPPED_SIZE];
    packs_describe_skipped(p, first, sizeof first);
    return fail_input(err,
                      "%s, expected at most the sequence length %d; %llu of %llu rows are longer: --seq-len %llu at "
                      "least, or --skip-long to leave them out",
                      first, p->spec.T, (unsigned long long)p->too_long.count,
                      (unsigned long long)(p->num_rows + p->too_long.count), (unsigned long long)p->too_long.longest);
}

static uint64_t count_rows(const Packs *p) {
    uint64_t count = 0;
    for (int i = 0; i < p->num_files; i++) count += p->files[i].num_rows;
    return count;
}

// Lists the rows that fit, with their lengths in positions.
static void list_rows(Packs *p, uint32_t *lengths) {
    uint64_t number = 0;
    for (int i = 0; i < p->num_files; i++) {
        const RowFile *file = &p->files[i];
        for (uint64_t row = 0; row < file->num_rows; row++, number++) {
            const uint64_t positions = positions_of(&file->rows[row]);
            if (positions > (uint64_t)p->spec.T) {
                note_long(&p->too_long, file, row);
            } else {
                lengths[p->num_rows] = (uint32_t)positions;
                p->rows[p->num_rows++] = (PlacedRow){i, row, number, p->num_answers};
                p->num_positions += positions;
            }
            p->num_answers += (uint64_t)row_num_answers(&file->rows[row]);
        }
    }
}

static int check_rows(const Packs *p, Error *err) {
    if (p->too_long.count == 0) return 0;
    if (!p->spec.skip_long) return refuse_long(p, err);
    if (p->num_rows > 0) return 0;
    return fail_input(err,
                      "%s: all %llu rows of the set take more positions than the sequence length %d: --seq-len %llu "
                      "keeps all of them",
                      p->files[0].path, (unsigned long long)p->too_long.count, p->spec.T,
                      (unsigned long long)p->too_long.longest);
}

int packs_make(Packs *p, Error *err) {
    const uint64_t count = count_rows(p);
    if (count >= UINT32_MAX)
        return fail_input(err, "%s: the set has %llu rows, expected fewer than %u", p->files[0].path,
                          (unsigned long long)count, UINT32_MAX);
    uint32_t *lengths = malloc(count * sizeof *lengths);
    p->rows = malloc(count * sizeof *p->rows);
    int code = lengths && p->rows ? 0 : fail_fault(err, "no memory for %llu rows", (unsigned long long)count);
    if (!code) {
        list_rows(p, lengths);
        code = check_rows(p, err);
    }
    if (!code)
        code = packing_create(&p->packing, lengths, (uint32_t)p->num_rows, (uint32_t)p->spec.T, p->spec.seed, err);
    free(lengths);
    return code;
}

uint64_t packs_count(const Packs *p) { return p->packing.num_packs; }
uint64_t packs_num_rows(const Packs *p) { return p->num_rows; }
uint64_t packs_num_skipped(const Packs *p) { return p->too_long.count; }
uint64_t packs_num_answers(const Packs *p) { return p->num_answers; }

bool packs_have_token(const Packs *p, uint32_t id) {
    for (int i = 0; i < p->num_files; i++)
        if (rows_have_token(&p->files[i], id)) return true;
    return false;
}

double packs_share_filled(const Packs *p) {
    return (double)p->num_positions / ((double)packs_count(p) * (double)p->spec.T);
}

// ---- Filling a row of a batch

// Where the next token goes: position t of the batch's row that begins at `base`, in what begins at `start`.
typedef struct {
    Batch *batch;
    int base, t, start;
    bool comparisons;
    int excluded_begin, excluded_end;
} Pen;

// target: -1 or an id
static void put(Pen *pen, uint32_t token, int32_t target) {
    const size_t at = (size_t)pen->base + (size_t)pen->t;
    pen->batch->tokens[at] = (int32_t)(token & ROWS_ID);
    pen->batch->targets[at] = target;
    pen->batch->doc_start[at] = pen->start;
    if (pen->comparisons) {
        pen->batch->excluded[2 * at] = pen->excluded_begin;
        pen->batch->excluded[2 * at + 1] = pen->excluded_end;
    }
    pen->t++;
}

static void put_conversation(Pen *pen, const Row *row, const uint32_t *tokens) {
    for (uint32_t i = 0; i < row->prompt; i++) {
        const bool trained = i + 1 < row->prompt && (tokens[i + 1] & ROWS_TRAINED);
        put(pen, tokens[i], trained ? (int32_t)(tokens[i + 1] & ROWS_ID) : -1);
        pen->batch->num_targets += trained;
    }
}

// The prompt's last token and the answer after it.
static AnswerSpan put_answer(Pen *pen, uint32_t last_of_prompt, const uint32_t *answer, uint32_t length) {
    const AnswerSpan span = {.first = pen->base + pen->t, .last = pen->base + pen->t + (int)length};
    for (uint32_t i = 0; i <= length; i++) {
        const bool trained = i < length && (answer[i] & (ROWS_TRAINED | ROWS_FORMAT)) == ROWS_TRAINED;
        put(pen, i == 0 ? last_of_prompt : answer[i - 1], trained ? (int32_t)(answer[i] & ROWS_ID) : -1);
    }
    return span;
}

// order = the row's answers in the order of their places.
static void place_answers(const Packs *p, const PlacedRow *placed, int *order, int count) {
    for (int i = 0; i < count; i++) order[i] = i;
    const uint64_t key = permutation_key(p->spec.seed, UINT64_MAX - 1); // a number that no epoch has
    if (p->spec.shuffle_answers) permutation_shuffle(order, count, permutation_key(key, placed->number));
}

static void put_comparison(Pen *pen, const Packs *p, const PlacedRow *placed, const Row *row, const uint32_t *tokens) {
    Batch *batch = pen->batch;
    const int count = row_num_answers(row), first = batch->num_answers;
    assert(count >= 2 && count <= ROWS_MAX_ANSWERS);
    int order[ROWS_MAX_ANSWERS];
    place_answers(p, placed, order, count);
    uint64_t begin[ROWS_MAX_ANSWERS] = {row->prompt};
    for (int i = 1; i < count; i++) begin[i] = begin[i - 1] + row->answers[i - 1];

    pen->excluded_begin = pen->excluded_end = pen->t + (int)row->prompt - 1;
    for (uint32_t i = 0; i + 1 < row->prompt; i++) put(pen, tokens[i], -1);
    for (int place = 0; place < count; place++) {
        const int answer = order[place];
        pen->excluded_end = pen->t;
        batch->answers[first + answer] =
            put_answer(pen, tokens[row->prompt - 1], tokens + begin[answer], row->answers[answer]);
        batch->answer_numbers[first + answer] = (int64_t)placed->answer + answer;
    }
    batch->groups[batch->num_groups++] = (AnswerGroup){first, count};
    batch->num_answers += count;
    batch->num_targets += count * (count - 1) / 2;
}

int packs_fill(Packs *p, uint64_t pack, int row, Batch *out, Error *err) {
    const Packing *packing = &p->packing;
    Pen pen = {.batch = out, .base = row * p->spec.T, .comparisons = p->spec.kind == LOADER_COMPARISONS};
    for (uint64_t i = packing->first[pack]; i < packing->first[pack + 1]; i++) {
        const PlacedRow *placed = &p->rows[packing->items[i]];
        const RowFile *file = &p->files[placed->file];
        const Row *described = &file->rows[placed->row];
        int code = rows_read(file, placed->row, p->tokens, err);
        if (code) return code;
        pen.start = pen.t;
        if (pen.comparisons)
            put_comparison(&pen, p, placed, described, p->tokens);
        else
            put_conversation(&pen, described, p->tokens);
    }
    assert(pen.t <= p->spec.T);
    batch_clear(out, p->spec.T, row, pen.t, pen.comparisons);
    return 0;
}

void batch_clear(Batch *out, int T, int row, int from, bool excluded) {
    for (int t = from; t < T; t++) {
        const size_t at = (size_t)row * (size_t)T + (size_t)t;
        out->tokens[at] = 0;
        out->targets[at] = -1;
        out->doc_start[at] = t;
        if (excluded) out->excluded[2 * at] = out->excluded[2 * at + 1] = 0;
    }
}

void batch_put(Batch *out, size_t at, int32_t token, int doc_start, int excluded_begin, int excluded_end) {
    out->tokens[at] = token;
    out->doc_start[at] = doc_start;
    out->excluded[2 * at] = excluded_begin;
    out->excluded[2 * at + 1] = excluded_end;
}

void packs_close(Packs *p) {
    if (!p) return;
    for (int i = 0; i < p->num_files; i++) rows_close(&p->files[i]);
    packing_free(&p->packing);
    free(p->files);
    free(p->rows);
    free(p->tokens);
    free(p);
}
