#include "generate/engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "checkpoint/checkpoint.h"
#include "generate/decoder.h"
#include "generate/logprobs.h"
#include "generate/open_model.h"
#include "kernels/kv_cache_layout.h"

typedef struct Request Request;
struct Request {
    int64_t id;
    RequestOptions options;
    uint64_t random; // state of the sampler's random numbers
    int32_t *tokens; // the prompt's and the drawn ones, [most]
    int prompt, length, most;
    int computed;  // of tokens: they are in the cache
    int told;      // of tokens: what follows from them has been reported
    int row;       // of the decoder, where it runs
    Request *next; // that waits behind it
};

struct Engine {
    LlamaConfig config;
    Llama3 *model;
    Decoder *decoder;
    Sampler *sampler;
    int rows;
    Request **running;                // [rows], by id
    Request *waiting;                 // by id
    bool *taken;                      // [rows]: of the decoder
    int32_t *step_rows, *step_tokens; // [rows]
    int64_t next_id;
    EngineCounts counts;
};

// ---- opening

static int allocate(Engine *e, int context, Error *err) {
    int code = decoder_create(&e->decoder, e->model, e->rows, context, err);
    if (!code) code = sampler_create(&e->sampler, e->config.vocab_size, err);
    if (code) return code;
    e->running = calloc((size_t)e->rows, sizeof(Request *));
    e->taken = calloc((size_t)e->rows, sizeof *e->taken);
    e->step_rows = calloc((size_t)e->rows, sizeof *e->step_rows);
    e->step_tokens = calloc((size_t)e->rows, sizeof *e->step_tokens);
    return e->running && e->taken && e->step_rows && e->step_tokens
               ? 0
               : fail_fault(err, "no memory for %d requests", e->rows);
}

int engine_open(Engine **out, const char *folder, const EngineSizes *sizes, Error *err) {
    Engine *e = calloc(1, sizeof *e);
    if (!e) return fail_fault(err, "no memory for the engine");
    int context = sizes->context;
    e->rows = sizes->rows;
    int code = open_model(&e->model, &e->config, folder, &context, sizes->threads, err);
    if (!code) code = allocate(e, context, err);
    if (!code) code = checkpoint_read_weights(folder, e->model, err);
    if (code) {
        engine_close(e);
        return code;
    }
    *out = e;
    return 0;
}

static void free_request(Request *r) {
    if (r) free(r->tokens);
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
    free(e->step_rows);
    free(e->step_tokens);
    free(e);
}

int engine_context(const Engine *e) { return decoder_capacity(e->decoder); }
int engine_vocab_size(const Engine *e) { return e->config.vocab_size; }
bool engine_is_end(const Engine *e, int id) { return llama_config_is_end(&e->config, id); }
int engine_room(const Engine *e) { return 2 * e->rows; }
void engine_counts(const Engine *e, EngineCounts *counts) { *counts = e->counts; }

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
    Request **last = &e->waiting;
    while (*last) last = &(*last)->next;
    *last = r;
    e->counts.waiting++;
    *id = r->id;
    return 0;
}

// The i-th of those that run is gone.
static void remove_running(Engine *e, int64_t i) {
    Request *r = e->running[i];
    e->taken[r->row] = false;
    e->counts.running--;
    for (int64_t k = i; k < e->counts.running; k++) e->running[k] = e->running[k + 1];
    free_request(r);
}

void engine_cancel(Engine *e, int64_t id) {
    for (int64_t i = 0; i < e->counts.running; i++)
        if (e->running[i]->id == id) {
            remove_running(e, i);
            return;
        }
    for (Request **at = &e->waiting; *at; at = &(*at)->next) {
        Request *r = *at;
        if (r->id != id) continue;
        *at = r->next;
        e->counts.waiting--;
        free_request(r);
        return;
    }
}

// ---- a step

static void admit(Engine *e) {
    while (e->waiting && e->counts.running < e->rows) {
        Request *r = e->waiting;
        e->waiting = r->next;
        e->counts.waiting--;
        while (e->taken[r->row]) r->row++;
        e->taken[r->row] = true;
        decoder_clear(e->decoder, r->row);
        e->counts.prompt_tokens += r->prompt;
        e->running[e->counts.running++] = r;
    }
}

static void fill_logprobs(const Engine *e, const Request *r, const float *logits, EngineToken *t) {
    t->tops = r->options.logprobs;
    t->logprob = logprobs_of(logits, e->config.vocab_size, t->token, t->tops, t->top_ids, t->top_logprobs);
}

// What follows from the logits after token `at` of a request, into out; returns how many entries.
static int report(Engine *e, Request *r, int at, const float *logits, EngineToken *out) {
    const bool tells_prompt = r->options.prompt_logprobs && at + 1 <= r->prompt;
    int n = 0;
    r->told = at + 1;
    if (tells_prompt && at == 0)
        out[n++] = (EngineToken){.id = r->id, .token = r->tokens[0], .prompt_index = 0, .logprob = NAN};
    if (at + 1 < r->prompt) {
        if (!tells_prompt) return n;
        out[n] = (EngineToken){.id = r->id, .token = r->tokens[at + 1], .prompt_index = at + 1};
        fill_logprobs(e, r, logits, &out[n++]);
        return n;
    }
    EngineToken *t = &out[n++];
    *t = (EngineToken){.id = r->id, .token = -1, .prompt_index = -1, .finish = FINISH_LENGTH, .logprob = NAN};
    if (r->options.max_tokens == 0) return n;
    t->token = sampler_draw(e->sampler, logits, &r->options.sampling, &r->random);
    if (r->options.logprobs >= 0) fill_logprobs(e, r, logits, t);
    r->tokens[r->length++] = t->token;
    e->counts.generated_tokens++;
    if (r->length < r->most) t->finish = FINISH_NOT;
    if (engine_is_end(e, t->token)) t->finish = FINISH_END;
    return n;
}

static int compute(Engine *e, Error *err) {
    const int n = (int)e->counts.running;
    for (int i = 0; i < n; i++) {
        Request *r = e->running[i];
        e->step_rows[i] = r->row;
        e->step_tokens[i] = r->tokens[r->computed++];
    }
    return n ? decoder_step(e->decoder, e->step_rows, e->step_tokens, n, err) : 0;
}

int engine_step(Engine *e, EngineToken *out, int *count, Error *err) {
    const double began = clock_seconds();
    *count = 0;
    admit(e);
    e->counts.schedule_seconds += clock_seconds() - began;
    int code = compute(e, err);
    if (code) return code;
    for (int64_t i = 0; i < e->counts.running;) {
        Request *r = e->running[i];
        *count += report(e, r, r->computed - 1, decoder_logits(e->decoder, r->row), out + *count);
        if (*count && out[*count - 1].id == r->id && out[*count - 1].finish)
            remove_running(e, i);
        else
            i++;
    }
    e->counts.steps++;
    e->counts.step_seconds += clock_seconds() - began;
    return 0;
}
