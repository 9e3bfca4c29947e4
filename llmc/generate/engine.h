// Serves many requests with the model of a Hugging Face directory; scripts/llmserve calls it.
//
//   engine_open → engine_add at any time → engine_step again and again, which gives the tokens of all requests
//
// A step takes a token of each running text, and tokens of prompts beside them. What is computed for a request has the same
// bits whether it runs alone or among others, and whether the beginning of its prompt was computed for it or for another.
// Not for several threads at once.
#ifndef LLMC_GENERATE_ENGINE_H
#define LLMC_GENERATE_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "generate/sampler.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Engine Engine;

typedef struct {
    int rows;    // requests that run at once
    int context; // tokens that a request may hold, prompt included; beyond the model's or all pages': cut to that
    int64_t
        pages; // of the cache, 64 tokens each; 0: what `rows` requests of `context` tokens need, if `memory` allows it
    double memory; // the largest share of the device's free memory that the cache takes where pages is 0
    int threads;   // of the CPU target; 0: all
} EngineSizes;

enum { ENGINE_MOST_TOPS = 20 };

typedef struct {
    SamplerOptions sampling;
    uint64_t seed;
    int max_tokens;       // 0: only the prompt is computed
    int logprobs;         // -1: none; else how many of the most probable tokens are reported beside each token's own
    bool prompt_logprobs; // of the prompt's tokens too; logprobs is then not -1
} RequestOptions;

typedef enum {
    FINISH_NOT,    // goes on
    FINISH_END,    // an end token, which is reported
    FINISH_LENGTH, // max_tokens, or the context is full
} EngineFinish;

// What a step says of one token, or (token -1) that a request of max_tokens 0 is at its end.
typedef struct {
    int64_t id; // of the request
    int32_t token;
    int32_t prompt_index; // of the prompt's token; -1: a token that was drawn
    int32_t finish;       // EngineFinish; the request is gone after anything but FINISH_NOT
    float logprob; // in nats, of the model's distribution as it is (temperature 1); NaN: not asked for, or index 0
    int32_t tops;  // how many follow, by falling probability, of equals by id
    int32_t top_ids[ENGINE_MOST_TOPS];
    float top_logprobs[ENGINE_MOST_TOPS]; // a token that is its own top has the same number in both places
} EngineToken;

typedef struct {
    int64_t waiting, running;
    int64_t pages, pages_free;    // pages_free: those at hand for new tokens, kept prefixes among them
    int64_t pages_shared;         // that more than one request holds
    int64_t steps;                // since engine_open, as all that follows
    int64_t put_back;             // times that a request gave up its pages for an older one
    int64_t prompt_tokens;        // of all requests that began
    int64_t prompt_tokens_shared; // of these, not computed as a page had them
    int64_t generated_tokens;     // drawn
    double step_seconds;          // in engine_step
    double schedule_seconds;      // of it, choosing what to compute: neither the model nor drawing
} EngineCounts;

// Loads config.json, generation_config.json where there is one (its end tokens count too) and the safetensors of `folder`.
// Errors: 2 (a file's content, sizes), 1 (I/O, memory).
int engine_open(Engine **out, const char *folder, const EngineSizes *sizes, Error *err);
void engine_close(Engine *e); // NULL is allowed

int engine_context(
    const Engine *e); // tokens that a request can hold: a prompt of that many, and one drawn token after it
int engine_vocab_size(const Engine *e);
bool engine_is_end(const Engine *e, int id);
int engine_room(const Engine *e); // tokens that a step reports, at most

// A request that begins in a step that has room, in the order of calls. *id = its number, never given again. The same
// prompt, options and seed give the same tokens. Errors: 2 (prompt empty, longer than the context, an unknown id; options),
// 1 (memory).
int engine_add(Engine *e, const int32_t *prompt, int n, const RequestOptions *options, int64_t *id, Error *err);

// The request is gone; its pages are free at return. Unknown ids are ignored.
void engine_cancel(Engine *e, int64_t id);

// One step. out [engine_room] = what it says, *count entries, those of a request in the order of its tokens. A step may
// say nothing; where no request waits or runs it does nothing. Errors: 1.
int engine_step(Engine *e, EngineToken *out, int *count, Error *err);

void engine_counts(const Engine *e, EngineCounts *counts);

#ifdef __cplusplus
}
#endif
#endif
