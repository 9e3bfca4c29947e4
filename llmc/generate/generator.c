#include "generate/generator.h"

#include <stdlib.h>

#include "checkpoint/checkpoint.h"
#include "generate/decoder.h"
#include "generate/open_model.h"

typedef struct {
    SamplerOptions options;
    uint64_t random; // state of the sampler's random numbers
    int32_t last;    // the token drawn last, not yet in the cache; -1: none
    bool running;
    bool held; // the row is a prompt for forks
} Text;

struct Generator {
    LlamaConfig config;
    Llama3 *model;
    Decoder *decoder;
    Sampler *sampler;
    Text *texts;            // [rows]
    int32_t *rows, *tokens; // [rows] of a step
};

// ---- opening

static int allocate(Generator *g, int rows, int context, Error *err) {
    int code = decoder_create(&g->decoder, g->model, &(DecoderSizes){.rows = rows, .capacity = context}, err);
    if (!code) code = sampler_create(&g->sampler, g->config.vocab_size, err);
    if (code) return code;
    g->texts = calloc((size_t)rows, sizeof *g->texts);
    g->rows = calloc((size_t)rows, sizeof *g->rows);
    g->tokens = calloc((size_t)rows, sizeof *g->tokens);
    return g->texts && g->rows && g->tokens ? 0 : fail_fault(err, "no memory for %d texts", rows);
}

int generator_open(Generator **out, const char *folder, int rows, int context, int threads, Error *err) {
    Generator *g = calloc(1, sizeof *g);
    if (!g) return fail_fault(err, "no memory for the generator");
    int code = open_model(&g->model, &g->config, folder, &context, threads, err);
    if (!code) code = allocate(g, rows, context, err);
    if (!code) code = checkpoint_read_weights(folder, g->model, err);
    if (code) {
        generator_close(g);
        return code;
    }
    *out = g;
    return 0;
}

void generator_close(Generator *g) {
    if (!g) return;
    decoder_destroy(g->decoder);
    llama3_destroy(g->model);
    sampler_destroy(g->sampler);
    free(g->texts);
    free(g->rows);
    free(g->tokens);
    free(g);
}

int generator_context(const Generator *g) { return decoder_capacity(g->decoder); }
int generator_vocab_size(const Generator *g) { return g->config.vocab_size; }
bool generator_is_end(const Generator *g, int id) { return llama_config_is_end(&g->config, id); }

// ---- texts

int generator_start(Generator *g, int row, const int32_t *prompt, int n, const SamplerOptions *options, uint64_t seed,
                    Error *err) {
    int code = sampler_check(options, err);
    if (!code) code = decoder_prefill(g->decoder, row, prompt, n, err);
    if (!code) g->texts[row] = (Text){.options = *options, .random = seed, .last = -1, .running = true};
    return code;
}

static int check_row(const Generator *g, int row, Error *err) {
    const int rows = decoder_rows(g->decoder);
    return row >= 0 && row < rows ? 0 : fail_input(err, "row %d, expected 0 to %d", row, rows - 1);
}

int generator_hold(Generator *g, int row, const int32_t *prompt, int n, Error *err) {
    int code = decoder_prefill(g->decoder, row, prompt, n, err);
    if (!code) g->texts[row] = (Text){.last = -1, .held = true};
    return code;
}

int generator_fork(Generator *g, int row, int from, const SamplerOptions *options, uint64_t seed, Error *err) {
    int code = sampler_check(options, err);
    if (!code) code = check_row(g, row, err);
    if (!code) code = check_row(g, from, err);
    if (code) return code;
    if (row == from || !g->texts[from].held)
        return fail_input(err, "row %d cannot go on with the prompt of row %d: expected another row that holds one",
                          row, from);
    code = decoder_copy(g->decoder, row, from, err);
    if (!code) g->texts[row] = (Text){.options = *options, .random = seed, .last = -1, .running = true};
    return code;
}

void generator_pad_steps(Generator *g, int rows) { decoder_pad_steps(g->decoder, rows); }

void generator_stop(Generator *g, int row) { g->texts[row].running = false; }

// Brings the tokens drawn last into the cache; a text whose context is full is at its end.
static int advance(Generator *g, Error *err) {
    int n = 0;
    for (int row = 0; row < decoder_rows(g->decoder); row++) {
        Text *text = &g->texts[row];
        if (!text->running || text->last < 0) continue;
        if (decoder_length(g->decoder, row) == decoder_capacity(g->decoder)) {
            text->running = false;
            continue;
        }
        g->rows[n] = row;
        g->tokens[n++] = text->last;
    }
    return n > 0 ? decoder_step(g->decoder, g->rows, g->tokens, n, err) : 0;
}

int generator_next(Generator *g, int32_t *tokens, int *count, Error *err) {
    int code = advance(g, err);
    *count = 0;
    for (int row = 0; row < decoder_rows(g->decoder) && !code; row++) {
        Text *text = &g->texts[row];
        tokens[row] = -1;
        if (!text->running) continue;
        text->last = sampler_draw(g->sampler, decoder_logits(g->decoder, row), &text->options, &text->random);
        tokens[row] = text->last;
        text->running = !generator_is_end(g, text->last);
        ++*count;
    }
    return code;
}
