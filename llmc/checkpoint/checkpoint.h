// A checkpoint is a Hugging Face model directory plus the state of training. They lie in a store:
//   STORE/step_00000100/          config.json  generation_config.json  model.safetensors  tokenizer files
//   STORE/step_00000100/trainer/  state.json  optimizer.safetensors  checksums.xxh128
//   STORE/step_00000100/averaged/ config.json and so on: the mean of the weights over steps as a model, where one is kept
//   STORE/latest -> step_00000100
// A run that trains adapters writes PEFT's directory instead: adapter_model.safetensors and adapter_config.json in place of
// model.safetensors and config.json, without the base.
//
// optimizer.safetensors: fp32 tensors "master.NAME", "moment1.NAME", "moment2.NAME" for each trained parameter NAME, in
// its shape, and "average.NAME" where a mean over steps is kept. What training keeps in bf16 is widened. Where the optimizer's state is divided among N > 1 ranks,
// each writes a part (parts.h):
//   model-0000i-of-0000N.safetensors, whole tensors, found by model.safetensors.index.json
//   trainer/optimizer-0000i-of-0000N.safetensors, elements [first, end) of NAME as "master.NAME[first:end]"
// and any number of ranks can read them. state.json is the trainer's; of its members this layer knows "format_version",
// "program_version" and "average_samples" only.
// checksums.xxh128: see checksums.h.
#ifndef LLMC_CHECKPOINT_CHECKPOINT_H
#define LLMC_CHECKPOINT_CHECKPOINT_H

#include <cjson/cJSON.h>

#include "checkpoint/snapshot.h"
#include "model/llama3_create.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { CHECKPOINT_FORMAT_VERSION = 1 }; // state.json's "format_version"

typedef struct {
    const char *store; // its folder, made if it is missing
    int64_t step;
    const LlamaConfig *config;
    const ParameterTable *table;
    int part, parts;              // what this rank writes: the shard of that number; parts 0: one
    const Snapshot *snapshot;     // what is written; or NULL, and `model` is written as it stands
    Llama3 *model;                // made for training; must not change while it is written
    const char *state;            // text of trainer/state.json
    const char *base;             // with adapters: the model that they adapt, for adapter_config.json
    const char *tokenizer_folder; // its tokenizer files are copied, those that are there
    int keep_last;                // how many of the newest checkpoints are kept after the write; 0: all
    int64_t keep_every;           // checkpoints at multiples of this step are kept too; 0: none
    bool average;                 // the model keeps a mean over steps, which is part of the state
    bool averaged;                // and it has samples: it is written as a model, too
    int64_t whole_step;           // the newest that is known to be whole; 0: none
    int *dropped;                 // (=) how many older ones were removed beforehand to make room; NULL: not asked
} CheckpointContent;

// Writes the checkpoint of that step, in one part. It is written as STORE/step_N.tmp, synced to the disk and renamed; then
// `latest` moves to it; then checkpoints that need not be kept are removed. An existing checkpoint of that step is
// replaced. Free space is checked first: where it is short and not all are kept, checkpoints older than whole_step are
// removed beforehand, the oldest first, if that makes room; whole_step and those of keep_every are kept. *bytes (NULL
// allowed) = the size of all files. Errors: 1 (I/O: path and reason), 2 (the path itself is to blame: missing, not
// permitted). After an error the temporary folder is gone, the other checkpoints are as before, except for those that made
// room, and `latest` names a whole one.
int checkpoint_write(const CheckpointContent *content, uint64_t *bytes, Error *err);

// The same in steps, for several parts. One rank begins; then all ranks write their parts, in any order or at the same time;
// then one rank commits if all succeeded, and abandons otherwise. Errors of all as above.
int checkpoint_begin(const CheckpointContent *content, Error *err);

// *lines = the checksums of the files it wrote, to be freed by the caller (NULL after an error); *bytes = their size
// (NULL allowed). Part 0 also writes all that is not divided.
int checkpoint_write_part(const CheckpointContent *content, char **lines, uint64_t *bytes, Error *err);

// lines: those of all parts, concatenated. Writes the mean over steps, if there is one, as a model, gives the checkpoint its
// name and moves `latest`. *bytes (NULL allowed) = the size of what was written here.
int checkpoint_commit(const CheckpointContent *content, const char *lines, uint64_t *bytes, Error *err);

// Removes what was written of it.
void checkpoint_abandon(const CheckpointContent *content);

// Checks that every file that the checksums name is there, with its checksum. Errors: 2 (the file's name), 1 (unreadable).
int checkpoint_verify(const char *folder, Error *err);

// Sets all weights from the safetensors of a Hugging Face directory, rounding to floatX. Files are mapped and
// copied piece by piece, so that never more than some MB of them are in memory beside the model. Errors: 2 (tensors that
// are missing, unexpected, of another shape or not finite, by name; a checkpoint's file that is not as it was written), 1
// (I/O). After an error the weights are undefined.
int checkpoint_read_weights(const char *folder, Llama3 *m, Error *err);

// The same from a language model's directory into a reward model m: the language model's head is ignored, and that of m is
// drawn from the seed.
int checkpoint_read_language_model(const char *folder, Llama3 *m, uint64_t seed, Error *err);

// Reads weights as checkpoint_read_weights does (for a model with adapters: these, and what is trained beside them, from
// adapter_model.safetensors), and master weights and moments, from a checkpoint of any number of parts by a build of the
// same precision. A rank reads what its shard owns, and checks of all parts that they hold each element once. A mean over
// steps that the model keeps is read where the checkpoint has one (required if state.json counts samples); one that the
// model does not keep is ignored. Errors: as above; checksums are checked by checkpoint_verify alone.
int checkpoint_read_training(const char *folder, Llama3 *m, Error *err);

// *state = the object in trainer/state.json, to be freed by cJSON_Delete. Errors: 2 (missing, no JSON, a format
// version that this program does not know: "written by version X"), 1 (unreadable).
int checkpoint_read_state(const char *folder, cJSON **state, Error *err);

#ifdef __cplusplus
}
#endif
#endif
