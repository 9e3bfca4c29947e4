// A Llama 3 model on the device: how it is made, and what memory it takes.
//
//   llama3_create → weights (llama3_weights.h) → training steps (llama3.h) or inference (llama3_inference.h)
//
// All work is queued on the model's own stream; nothing is allocated after llama3_create, also where a model changes the shape
// of its micro-batches or its RoPE between steps (llama3_set_rows, llama3_set_rope).
#ifndef LLMC_MODEL_LLAMA3_CREATE_H
#define LLMC_MODEL_LLAMA3_CREATE_H

#include <stddef.h>

#include "base/error.h"
#include "kernels/rope.h"
#include "model/config.h"
#include "model/memory.h"
#include "model/run_shape.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Llama3 Llama3;

// Plans and allocates all memory. Errors: 2 (sizes the kernels cannot work with, T beyond max_position_embeddings),
// 1 (memory: bytes needed and free).
int llama3_create(Llama3 **out, const LlamaConfig *config, const RunShape *shape, Error *err);
void llama3_destroy(Llama3 *m); // NULL is allowed

// *plan = what llama3_create would allocate. No device is needed. Errors: as llama3_create, and nothing is allocated.
int llama3_plan_memory(MemoryPlan *plan, const LlamaConfig *config, const RunShape *shape, Error *err);

// The same of the configuration file at config_path, for programs that are not written in C: text = a JSON object as
// memory_text writes it. shape_json: an object whose members are named as those of RunShape, of its Parallel and of its
// TrainedPart, rows as a list of [B, T, micro_batches]; those left out are 0, false or none. Errors: 2 (also an unknown or
// mistyped member), 1.
int llama3_plan_text(char *text, size_t capacity, const char *config_path, const char *shape_json, Error *err);

// ---- changes between steps: the result of the last one was read, and the next has not begun

// The steps that follow, or the evaluations, have such micro-batches: one of the shapes that the model was made for. What was
// filled into batches is lost; CUDA graphs are captured anew. The bits are those of a model that was made for this shape.
void llama3_set_rows(Llama3 *m, RowShape rows);

// Positions are rotated by these frequencies from now on; scaling NULL: none. llama3_config says so (a caller's copy, as that of
// which checkpoints write config.json, is the caller's to renew).
void llama3_set_rope(Llama3 *m, double theta, const RopeScaling *scaling);

// ----

const LlamaConfig *llama3_config(const Llama3 *m);
const ParameterTable *llama3_parameters(const Llama3 *m);
const RunShape *llama3_shape(const Llama3 *m); // its B, T and micro_batches are those of the running step
int llama3_max_tokens(const Llama3 *m);        // of a row, in any of the shapes
int llama3_max_positions(const Llama3 *m);     // B*T, in any of the shapes
const MemoryPlan *llama3_memory(const Llama3 *m);
int llama3_shard(const Llama3 *m); // which of the table's shards its training arrays hold

#ifdef __cplusplus
}
#endif
#endif
