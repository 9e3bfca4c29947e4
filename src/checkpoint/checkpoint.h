// A checkpoint is a Hugging Face model directory:
//   config.json  generation_config.json  model.safetensors  tokenizer.json  tokenizer_config.json
#ifndef LLMC_CHECKPOINT_CHECKPOINT_H
#define LLMC_CHECKPOINT_CHECKPOINT_H

#include "model/llama3.h"

#ifdef __cplusplus
extern "C" {
#endif

// Writes the model's weights and configuration, and the tokenizer files that lie in tokenizer_folder, as the
// directory `folder`. It is made beside it as folder ".tmp" and takes its name when all of it is on the disk:
// at every moment `folder` is what it was before or the new checkpoint, whole. Errors: 2 (path), 1 (I/O);
// what was there before stays.
int checkpoint_write(const char *folder, const char *tokenizer_folder, Llama3 *m, Error *err);

// Sets all weights from the safetensors of a Hugging Face directory, rounding to floatX. Errors: 2 (tensors
// missing, too many, of another shape or not finite: named), 1 (I/O). After an error the weights are
// undefined.
int checkpoint_read(const char *folder, Llama3 *m, Error *err);

#ifdef __cplusplus
}
#endif
#endif
