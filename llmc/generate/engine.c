#include "generate/engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "checkpoint/checkpoint.h"
#include "generate/decoder.h"
#include "generate/logprobs.h"
#include "generate/open_model.h"

// Tokens of prompts that a step computes beside the texts' own; more would make running texts wait longer for their next one.
enum { PROMPT_TOKENS = 64 };

typedef struct Request Request;
struct Request {
    int64_t id;
    RequestOptions options;
    uint64_t random; // state of the sampler's random numbers
    int32_t *tokens; // the prompt's and the drawn ones, [most]
    int prompt, length, most;
    int computed; // of tokens: they are in the cache
    int told;     // of tokens: what follows from them has been reported
    int row;      // of the decoder, where it runs
    bool began, finished;
    Request *next; // that waits behind it
};

typedef struct {
    Request *request;
    int at; // place of the token in the request's
} Planned;

struct Engine {
    LlamaConfig config;
    Llama3 *model;
    Decoder *decoder;
    PageTable *pages; // the decoder's
    Sampler *sampler;
    int rows, step;     // requests at once, tokens of a step
    Request **running;  // [rows], by id; those that wait have larger ones
    Request *waiting;   // by id
    Request **end;      // where the next one to wait is put
    bool *taken;        // [rows]: of the decoder
    DecoderToken *plan; // [step]
    Planned *planned;   // [step]: of whom each token is
    int64_t next_id;
    EngineCounts counts;
};

// ---- opening

static int allocate(Engine *e, int context, int64_t pages, Error *err) {
    e->step = e->rows + PROMPT_TOKENS;
    const DecoderSizes sizes = {.rows = e->rows, .capacity = context, .step = e->step, .pages = pages};
    int code = decoder_create(&e->decoder, e->model, &sizes, err);
    if (!code) code = sampler_create(&e->sampler, e->config.vocab_size, err);
    if (code) return code;
    e->pages = decoder_pages(e->decoder);
    decoder_pad_steps(e->decoder, e->step);
    e->running = calloc((size_t)e->rows, sizeof(Request *));
    e->taken = calloc((size_t)e->rows, sizeof *e->taken);
    e->plan = calloc((size_t)e->step, sizeof *e->plan);
    e->planned = calloc((size_t)e->step, sizeof *e->planned);
    const bool done = e->running && e->taken && e->plan && e->planned;
    return done ? 0 : fail_fault(err, "no memory for %d requests", e->rows);
}

static int context_within(int context, int64_t pages) {
    return pages <= context / PAGE_TOKENS ? (int)pages * PAGE_TOKENS : context;
}

// As many pages as full rows need, or those that the share of the free memory holds.
static int64_t fitting_pages(const Engine *e, int context, double memory) {
    const int64_t full = (int64_t)e->rows * ((context + PAGE_TOKENS - 1) / PAGE_TOKENS);
    const int64_t fitting = decoder_fitting_pages(e->model, memory);
    return fitting < full ? fitting : full;
}

static int open_parts(Engine *e, const char *folder, const EngineSizes *sizes, Error *err) {
    int context = sizes->context;
    int64_t pages = sizes->pages;
    if (sizes->rows < 1 || context < 1 || pages < 0)
        return fail_input(err, "%d requests of %d tokens, %lld pages: expected at least one request of one token",
                          sizes->rows, context, (long long)pages);
    if (pages) context = context_within(context, pages);
    e->rows = sizes->rows;
    e->end = &e->waiting;
    int code = open_model(&e->model, &e->config, folder, &context, sizes->threads, err);
    if (!code && !pages) pages = fitting_pages(e, context, sizes->memory);
    if (!code) code = allocate(e, context_within(context, pages), pages, err);
    return code ? code : checkpoint_read_weights(folder, e->model, err);
}

int engine_open(Engine **out, const char *folder, const EngineSizes *sizes, Error *err) {
    Engine *e = calloc(1, sizeof *e);
    if (!e) return fail_fault(err, "no memory for the engine");
    const int code = open_parts(e, folder, sizes, err);
    if (code)
        engine_close(e);
    else
        *out = e;
    return code;
}

static void free_request(Request *r) { // NULL is allowed
    if (!r) return;
    free(r->tokens);
    free(r);
}

void engine_close(Engine *e) {
    if (!e) return;
    for (int64_t i = 0; i < e->counts.running; i++) free_request(e->running[i]);
    while (e->waiting) {
        Request *r = e->waiting;
        e->waiting = r->next;
        free_request(r);
    }
    decoder_destroy(e->decoder);
    llama3_destroy(e->model);
    sampler_destroy(e->sampler);
    free(e->running);
    free(e->taken);
    free(e->plan);
    free(e->planned);
    free(e);
}

int engine_context(const Engine *e) { return decoder_capacity(e->decoder); }
int engine_vocab_size(const Engine *e) { return e->config.vocab_size; }
bool engine_is_end(const Engine *e, int id) { return llama_config_is_end(&e->config, id); }
int engine_room(const Engine *e) { return e->step + e->rows; } // a prompt's first token is told beside its second

void engine_counts(const Engine *e, EngineCounts *counts) {
    *counts = e->counts;
    counts->pages = pages_count(e->pages->pages);
    counts->pages_free = pages_free(e->pages->pages);
    counts->pages_shared = pages_shared(e->pages->pages);
}

// ---- requests

static int check_request(const Engine *e, const int32_t *prompt, int n, const RequestOptions *o, Error *err) {
    const int context = engine_context(e), V = e->config.vocab_size;
    int code = sampler_check(&o->sampling, err);
    if (code) return code;
    if (o->max_tokens < 0) return fail_input(err, "max_tokens %d, expected 0 or more", o->max_tokens);
    if (o->logprobs < -1 || o->logprobs > ENGINE_MOST_TOPS || o->logprobs > V)
        return fail_input(err, "logprobs %d, expected -1 (none) to %d", o->logprobs, ENGINE_MOST_TOPS);
    if (o->prompt_logprobs && o->logprobs < 0) return fail_input(err, "prompt_logprobs without logprobs");
    if (n < 1) return fail_input(err, "the prompt is empty, expected at least one token");
    if (n > context) return fail_input(err, "the prompt has %d tokens, the context holds %d", n, context);
    for (int i = 0; i < n; i++)
        if (prompt[i] < 0 || prompt[i] >= V)
            return fail_input(err, "token %d has the id %d, the model's vocabulary has %d ids", i, prompt[i], V);
    return 0;
}

// One token more than the context may be drawn: it need not be computed.
static int most_tokens(const Engine *e, int n, const RequestOptions *o) {
    const int room = engine_context(e) + 1 - n;
    return n + (o->max_tokens < room ? o->max_tokens : room);
}

int engine_add(Engine *e, const int32_t *prompt, int n, const RequestOptions *options, int64_t *id, Error *err) {
    int code = check_request(e, prompt, n, options, err);
    if (code) return code;
    Request *r = malloc(sizeof *r);
    const int most = most_tokens(e, n, options);
    int32_t *tokens = malloc((size_t)most * sizeof *tokens);
    if (!r || !tokens) {
        free(r);
        free(tokens);
        return fail_fault(err, "no memory for a request of %d tokens", most);
    }
    memcpy(tokens, prompt, (size_t)n * sizeof *tokens);
    *r = (Request){.id = e->next_id++,
                   .options = *options,
                   .random = options->seed,
                   .tokens = tokens,
                   .prompt = n,
                   .length = n,
                   .most = most};
    *e->end = r;
    e->end = &r->next;
    e->counts.waiting++;
    *id = r->id;
    return 0;
}

// The request at *at no longer waits.
static Request *take_waiting(Engine *e, Request **at) {
    Request *r = *at;
    *at = r->next;
    if (e->end == &r->next) e->end = at;
    r->next = NULL;
    e->counts.waiting--;
    return r;
}

// Who is at place i of those that run no longer does; its pages are free.
static Request *take_running(Engine *e, int64_t i) {
    Request *r = e->running[i];
    page_table_clear(e->pages, r->row);
    e->taken[r->row] = false;
    e->counts.running--;
    for (int64_t k = i; k < e->counts.running; k++) e->running[k] = e->running[k + 1];
    return r;
}

void engine_cancel(Engine *e, int64_t id) {
    Request *found = NULL;
    for (int64_t i = 0; i < e->counts.running && !found; i++)
        if (e->running[i]->id == id) found = take_running(e, i);
    for (Request **at = &e->waiting; *at && !found; at = &(*at)->next)
        if ((*at)->id == id) {
            found = take_waiting(e, at);
            break;
        }
    if (found) free_request(found);
}

// ---- what to compute. All products of a step have the same bits for a token whatever else it computes (decoder.h), as has
// attention over its row's pages, and prompts are computed by steps too: so a token's result depends on the tokens before it
// alone, however they are divided into steps and whether their pages were computed for this request or an earlier one.

// Tokens whose keys and values it may take over, plus one: who reports the prompt needs the logits after each of its tokens.
static int reusable(const Request *r) {
    return r->options.prompt_logprobs && r->told < r->prompt ? r->told : r->length;
}

// Gives the request a row, what is known of its beginning, and pages for the rest. false: too few are free.
static bool place(Engine *e, Request *r) {
    for (r->row = 0; e->taken[r->row];) r->row++;
    r->computed = page_table_share(e->pages, r->row, r->tokens, reusable(r));
    const int missing = (r->length + PAGE_TOKENS - 1) / PAGE_TOKENS - e->pages->rows[r->row].pages;
    if (missing <= pages_free(e->pages->pages) && page_table_reserve(e->pages, r->row, r->length))
        return e->taken[r->row] = true;
    page_table_clear(e->pages, r->row);
    return false;
}

static void admit(Engine *e) {
    while (e->waiting && e->counts.running < e->rows && place(e, e->waiting)) {
        Request *r = take_waiting(e, &e->waiting);
        e->running[e->counts.running++] = r;
        if (r->began) continue;
        r->began = true;
        e->counts.prompt_tokens += r->prompt;
        e->counts.prompt_tokens_shared += r->computed;
    }
}

// The newest of those that run waits again, as the first.
static void put_back(Engine *e) {
    Request *r = take_running(e, e->counts.running - 1);
    if (!e->waiting) e->end = &r->next;
    r->next = e->waiting;
    e->waiting = r;
    e->counts.waiting++;
    e->counts.put_back++;
}

// Sees to it that each of those that run has pages for its known tokens. (One alone always has: its context is no longer than
// all pages.)
static void make_room(Engine *e) {
    for (int64_t i = 0; i < e->counts.running; i++) {
        const Request *r = e->running[i];
        while (i < e->counts.running && !page_table_reserve(e->pages, r->row, r->length)) put_back(e);
    }
}

static bool wants_logits(const Request *r, int at) {
    return at + 1 == r->length || (r->options.prompt_logprobs && at >= r->told && at + 1 < r->prompt);
}

// Plans up to `most` more tokens of a request behind the n of the plan; returns how many the plan has then.
static int plan_request(Engine *e, Request *r, int n, int most, int *slots) {
    for (; most > 0 && r->computed < r->length; most--, n++) {
        const int at = r->computed++;
        e->planned[n] = (Planned){r, at};
        e->plan[n] = (DecoderToken){r->row, r->tokens[at], wants_logits(r, at) ? (*slots)++ : -1};
    }
    return n;
}

// Running texts' next tokens, then those of prompts, the oldest first. Returns how many.
static int make_plan(Engine *e) {
    int n = 0, slots = 0;
    for (int64_t i = 0; i < e->counts.running; i++)
        if (e->running[i]->length - e->running[i]->computed == 1) n = plan_request(e, e->running[i], n, 1, &slots);
    for (int64_t i = 0; i < e->counts.running; i++) n = plan_request(e, e->running[i], n, e->step - n, &slots);
    return n;
}

// ---- what it says

static void fill_logprobs(const Engine *e, const Request *r, const float *logits, EngineToken *t) {
    t->tops = r->options.logprobs;
    t->logprob = logprobs_of(logits, e->config.vocab_size, t->token, t->tops, t->top_ids, t->top_logprobs);
}

static int report_prompt(Engine *e, Request *r, int at, const float *logits, EngineToken *out) {
    int n = 0;
    if (at == 0) out[n++] = (EngineToken){.id = r->id, .token = r->tokens[0], .logprob = NAN};
    if (at + 1 < r->prompt) {
        out[n] = (EngineToken){.id = r->id, .token = r->tokens[at + 1], .prompt_index = at + 1};
        fill_logprobs(e, r, logits, &out[n++]);
    }
    return n;
}

static void draw(Engine *e, Request *r, const float *logits, EngineToken *out) {
    *out = (EngineToken){.id = r->id, .token = -1, .prompt_index = -1, .finish = FINISH_LENGTH, .logprob = NAN};
    if (r->options.max_tokens > 0) {
        out->token = sampler_draw(e->sampler, logits, &r->options.sampling, &r->random);
        if (r->options.logprobs >= 0) fill_logprobs(e, r, logits, out);
        r->tokens[r->length++] = out->token;
        e->counts.generated_tokens++;
        if (r->length < r->most) out->finish = FINISH_NOT;
        if (engine_is_end(e, out->token)) out->finish = FINISH_END;
    }
    r->finished = out->finish != FINISH_NOT;
}

// What follows from the logits after token `at` of a request, into out; returns how many entries.
static int report(Engine *e, Request *r, int at, const float *logits, EngineToken *out) {
    int n = 0;
    if (r->options.prompt_logprobs && at < r->prompt) n = report_prompt(e, r, at, logits, out);
    if (at + 1 == r->length) draw(e, r, logits, &out[n++]);
    r->told = at + 1;
    return n;
}

// ---- a step

// The tokens that were computed are the cache's, for requests to come that begin with them.
static void keep_pages(Engine *e) {
    for (int64_t i = 0; i < e->counts.running; i++)
        page_table_keep(e->pages, e->running[i]->row, e->running[i]->tokens);
}

static void remove_finished(Engine *e) {
    for (int64_t i = e->counts.running - 1; i >= 0; i--)
        if (e->running[i]->finished) free_request(take_running(e, i));
}

int engine_step(Engine *e, EngineToken *out, int *count, Error *err) {
    const double began = clock_seconds();
    *count = 0;
    admit(e);
    make_room(e);
    const int n = make_plan(e);
    if (n == 0) return 0;
    const double planned = clock_seconds();
    const int code = decoder_add(e->decoder, e->plan, n, err);
    if (code) return code;
    for (int i = 0; i < n; i++)
        if (e->plan[i].slot >= 0)
            *count += report(e, e->planned[i].request, e->planned[i].at, decoder_logits(e->decoder, e->plan[i].slot),
                             out + *count);
    const double told = clock_seconds();
    keep_pages(e);
    remove_finished(e);
    const double ended = clock_seconds();
    e->counts.steps++;
    e->counts.step_seconds += ended - began;
    e->counts.schedule_seconds += planned - began + (ended - told);
    return 0;
}
