#include "generate/scorer.h"

#include <stdlib.h>
#include <string.h>

#include "base/path.h"
#include "checkpoint/checkpoint.h"
#include "device/threads.h"
#include "loader/packs.h"
#include "model/llama3_inference.h"

// Rows are as long as the longest text, or so long that several fit where the model's context allows it.
enum { USUAL_ROW = 2048 };
// Rows of a forward pass are computed up to a multiple of this, so that matrix products come in few shapes.
enum { LENGTH_STEP = 64 };
enum { MIN_POSITIONS = 2 }; // a batch has room for half as many texts

struct Scorer {
    LlamaConfig config;
    Llama3 *model;
    int rows, length; // of the model: B, T
};

// Texts of one call, of which the first `shared` tokens are the same.
typedef struct {
    const int32_t *tokens, *lengths;
    int n, shared;
} Texts;

// ---- opening

static int read_config(LlamaConfig *config, const char *folder, Error *err) {
    char path[PATH_MAX];
    int code = path_join(path, folder, "config.json", err);
    if (!code) code = llama_config_read(config, path, err);
    if (!code && config->num_labels != 1)
        code = fail_input(
            err, "%s: a language model, expected a reward model (LlamaForSequenceClassification of one label)", path);
    return code;
}

static int smaller(int a, int b) { return a < b ? a : b; }
static int larger(int a, int b) { return a > b ? a : b; }

static int create_model(Scorer *s, int positions, int longest, Error *err) {
    if (positions < 1 || longest < 1)
        return fail_input(err, "texts of %d tokens, %d in a pass: expected at least 1", longest, positions);
    s->length = larger(1, smaller(larger(longest, USUAL_ROW), s->config.max_position_embeddings));
    s->rows = (larger(positions, MIN_POSITIONS) + s->length - 1) / s->length;
    const RunShape shape = {.B = s->rows, .T = s->length, .micro_batches = 1, .comparisons = true};
    return llama3_create(&s->model, &s->config, &shape, err);
}

int scorer_open(Scorer **out, const char *folder, int positions, int longest, int threads, Error *err) {
    int code = threads_set(threads, 1, err);
    if (code) return code;
    Scorer *s = calloc(1, sizeof *s);
    if (!s) return fail_fault(err, "no memory for the scorer");
    code = read_config(&s->config, folder, err);
    if (!code) code = create_model(s, positions, longest, err);
    if (!code) code = checkpoint_read_weights(folder, s->model, err);
    if (code) {
        scorer_close(s);
        return code;
    }
    *out = s;
    return 0;
}

void scorer_close(Scorer *s) {
    if (!s) return;
    llama3_destroy(s->model);
    free(s);
}

int scorer_context(const Scorer *s) { return s->length; }
int scorer_vocab_size(const Scorer *s) { return s->config.vocab_size; }

// ---- what is given

static int check(const Scorer *s, const Texts *texts, Error *err) {
    const int32_t *tokens = texts->tokens;
    for (int i = 0; i < texts->n; tokens += texts->lengths[i++]) {
        const int length = texts->lengths[i], V = s->config.vocab_size;
        if (length < 1) return fail_input(err, "text %d is empty, expected at least one token", i);
        if (length > s->length)
            return fail_input(err, "text %d has %d tokens, the reward model's rows hold %d", i, length, s->length);
        for (int t = 0; t < length; t++)
            if (tokens[t] < 0 || tokens[t] >= V)
                return fail_input(err, "text %d: token %d has the id %d, the model's vocabulary has %d ids", i, t,
                                  tokens[t], V);
    }
    return 0;
}

// How many tokens all texts begin with, so that each has one more.
static int count_shared(const Texts *texts) {
    if (texts->n < 2) return 0;
    int shared = texts->lengths[0] - 1;
    const int32_t *text = texts->tokens;
    for (int i = 0; i < texts->n; text += texts->lengths[i++]) {
        shared = smaller(shared, texts->lengths[i] - 1);
        int same = 0;
        while (same < shared && text[same] == texts->tokens[same]) same++;
        shared = same;
    }
    return shared;
}

// ---- rows: what is shared stands at the beginning, and each text's own tokens after it do not see the others'

// A batch that is being filled, row by row.
typedef struct {
    Batch *batch;
    int length;    // of its rows
    int row, used; // the last row, and how many of its positions are taken
} Pack;

static void put(Pack *p, int32_t token, int doc_start, int excluded_begin, int excluded_end) {
    const size_t at = (size_t)p->row * (size_t)p->length + (size_t)p->used++;
    batch_put(p->batch, at, token, doc_start, excluded_begin, excluded_end);
}

static void fill_row(Pack *p) {
    while (p->used < p->length) put(p, 0, p->used, 0, 0);
}

static void begin_row(Pack *p, const Texts *texts) {
    p->row++;
    p->used = 0;
    for (int t = 0; t < texts->shared; t++) put(p, texts->tokens[t], 0, 0, 0);
}

// The text's own tokens: after shared ones they are of the document that begins the row, and between lies what the texts
// before have; with nothing shared they are a document.
static void put_text(Pack *p, const Texts *texts, const int32_t *text, int length) {
    const int first = p->used, shared = texts->shared;
    for (int t = shared; t < length; t++) shared ? put(p, text[t], 0, shared, first) : put(p, text[t], first, 0, 0);
    const int32_t last = (int32_t)(p->row * p->length + p->used - 1);
    p->batch->answers[p->batch->num_answers++] = (AnswerSpan){last, last};
}

static int length_of_rows(const Scorer *s, const Texts *texts) {
    int64_t all = texts->shared;
    for (int i = 0; i < texts->n; i++) all += texts->lengths[i] - texts->shared;
    if (all >= s->length) return s->length;
    return smaller(((int)all + LENGTH_STEP - 1) / LENGTH_STEP * LENGTH_STEP, s->length);
}

// Fills the model's batch with texts from text *next on, until no more fit.
static Pack fill(Scorer *s, const Texts *texts, const int32_t **text, int *next) {
    const int most = s->rows * s->length / 2; // answers of a batch
    Pack p = {llama3_batch(s->model, 0), length_of_rows(s, texts), -1, 0};
    p.batch->num_answers = p.batch->num_groups = 0;
    for (; *next < texts->n && p.batch->num_answers < most; ++*next) {
        const int length = texts->lengths[*next];
        if (p.row < 0 || p.used + length - texts->shared > p.length) {
            if (p.row >= 0) fill_row(&p);
            if (p.row + 1 == s->rows) break;
            begin_row(&p, texts);
        }
        put_text(&p, texts, *text, length);
        *text += length;
    }
    fill_row(&p);
    return p;
}

int scorer_score(Scorer *s, const int32_t *tokens, const int32_t *lengths, int n, float *scores, Error *err) {
    Texts texts = {tokens, lengths, n, 0};
    int code = check(s, &texts, err);
    if (code) return code;
    texts.shared = count_shared(&texts);
    for (int next = 0; next < n;) {
        const int first = next;
        const Pack p = fill(s, &texts, &tokens, &next);
        llama3_scores(s->model, p.row + 1, p.length, scores + first);
    }
    return 0;
}
