// Generates texts with the model of a Hugging Face directory, step by step; scripts/generate.py calls it.
//
//   generator_open → generator_start for each text → generator_next until it gives nothing
//   several texts of one prompt: generator_hold once → generator_fork for each
#ifndef LLMC_GENERATE_GENERATOR_H
#define LLMC_GENERATE_GENERATOR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "generate/sampler.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Generator Generator;

// Loads config.json, generation_config.json where there is one (its end tokens count too) and the safetensors of `folder`,
// with room for `rows` texts of up to `context` tokens, prompt included; a context beyond the model's is cut to that.
// threads: of the CPU target, 0: all. Errors: 2 (a file's content, sizes), 1 (I/O, memory).
int generator_open(Generator **out, const char *folder, int rows, int context, int threads, Error *err);
void generator_close(Generator *g); // NULL is allowed

int generator_context(const Generator *g);    // tokens that a row can hold
int generator_vocab_size(const Generator *g); // of the model
bool generator_is_end(const Generator *g, int id);

// Row `row` begins a new text after the prompt of n tokens. The same prompt, options and seed give the same text; see
// decoder.h about rows beside it. Errors: 2 (prompt empty, longer than the context or with an unknown id; options), as
// before then.
int generator_start(Generator *g, int row, const int32_t *prompt, int n, const SamplerOptions *options, uint64_t seed,
                    Error *err);

// Row `row` holds the prompt for generator_fork and has no text. Errors: as generator_start, as before then.
int generator_hold(Generator *g, int row, const int32_t *prompt, int n, Error *err);

// Row `row` begins a new text after the prompt that row `from` holds, without computing it again: the text that
// generator_start would begin. Errors: 2 (options; `from` holds no prompt of generator_hold, or is `row`), as before then.
int generator_fork(Generator *g, int row, int from, const SamplerOptions *options, uint64_t seed, Error *err);

// decoder_pad_steps: texts that do not depend on how many are computed beside them, in the last bit neither.
void generator_pad_steps(Generator *g, int rows);

// Draws one token for every text that has not ended: tokens [rows] =, -1 where there is none. A text ends after an end token
// (which is returned), when the context is full, or by generator_stop. *count = how many tokens there are; 0: all texts
// have ended. Errors: 1.
int generator_next(Generator *g, int32_t *tokens, int *count, Error *err);

void generator_stop(Generator *g, int row); // the text of this row is at its end

#ifdef __cplusplus
}
#endif
#endif
