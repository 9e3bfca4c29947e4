// A checkpoint is a Hugging Face model directory plus the state of training. They lie in a store:
//   STORE/step_00000100/          config.json  generation_config.json  model.safetensors  tokenizer files
//   STORE/step_00000100/trainer/  state.json  optimizer.safetensors  checksums.xxh128
//   STORE/step_00000100/averaged/ config.json and so on: the mean of the weights over steps as a model, where one is kept
//   STORE/latest -> step_00000100
// Of a run that trains adapters it is PEFT's directory of them instead: adapter_model.safetensors and adapter_config.json in
// place of model.safetensors and config.json; the base is not in it.
//
// optimizer.safetensors: fp32 tensors "master.NAME", "moment1.NAME", "moment2.NAME" for each trained parameter NAME, in
// its shape, and "average.NAME" where a mean over steps is kept. Where the optimizer's state is divided among N > 1 ranks,
// each writes a part (parts.h):
//   model-0000i-of-0000N.safetensors, whole tensors, found by model.safetensors.index.json
//   trainer/optimizer-0000i-of-0000N.safetensors, elements [first, end) of NAME as "master.NAME[first:end]"
// and any number of ranks reads them. state.json: the trainer's; of its members this layer knows "format_version",
// "program_version" and "average_samples" alone.
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
    int keep_last;                // after the write so many of the newest checkpoints stay; 0: all
    int64_t keep_every;           // those of every so many steps stay besides; 0: none
    bool average;                 // the model keeps a mean over steps, which is part of the state
    bool averaged;                // and it has samples: it is written as a model, too
    int64_t whole_step;           // the newest that is known to be whole; 0: none
    int *dropped;                 // (=) how many older ones were removed beforehand to make room; NULL: not asked
} CheckpointContent;

// Writes the checkpoint of that step. It is made as STORE/step_N.tmp, brought to the disk, and takes its name; then
// `latest` moves; then those that need not stay are removed. A checkpoint of that step that is there already is
// replaced. Free space is looked at before: where it is short and not all are kept, checkpoints older than whole_step go
// first, the oldest first, if that makes room; whole_step and those of keep_every stay. *bytes (NULL allowed) = size of
// all files. Errors: 1 (I/O: path and reason), 2 (a path that is to blame itself: missing, not permitted). After an error
// the temporary folder is gone and the checkpoints that were there are there, but for those that made room; `latest` names
// a whole one.
// Of one part only.
int checkpoint_write(const CheckpointContent *content, uint64_t *bytes, Error *err);

// The same in steps, for several parts. One rank begins; then all parts are written, in any order, at the same time;
// then, if all succeeded, one rank commits, else it abandons. Errors of all as above.
int checkpoint_begin(const CheckpointContent *content, Error *err);

// *lines = the checksums of the files it wrote, to be freed by the caller (NULL after an error); *bytes = their size
// (NULL allowed). Part 0 writes all that is not divided besides.
int checkpoint_write_part(const CheckpointContent *content, char **lines, uint64_t *bytes, Error *err);

// lines: those of all parts, one behind the other. The mean over steps, if there is one, is written as a model; the
// checkpoint gets its name, `latest` moves. *bytes (NULL allowed) = the size of what was written here.
int checkpoint_commit(const CheckpointContent *content, const char *lines, uint64_t *bytes, Error *err);

// Removes what there is of it.
void checkpoint_abandon(const CheckpointContent *content);

// Is every file there that the checksums name, with its checksum? Errors: 2 (the file's name), 1 (unreadable).
int checkpoint_verify(const char *folder, Error *err);

// Sets all weights from the safetensors of a Hugging Face directory, rounding to floatX. Files are mapped and
// copied piece by piece: beside the model there is never more than some MB of them in memory. Errors: 2 (tensors
// missing, too many, of another shape or not finite: named; a checkpoint's file that is not as it was written), 1 (I/O). After an
// error the weights are undefined.
int checkpoint_read_weights(const char *folder, Llama3 *m, Error *err);

// The same of a language model's directory, for m a reward model: a head of the language model is left aside, and that of
// m is drawn from the seed.
int checkpoint_read_language_model(const char *folder, Llama3 *m, uint64_t seed, Error *err);

// As checkpoint_read_weights (of a model with adapters these, and what is trained beside them, from
// adapter_model.safetensors), and the master weights and moments, of a checkpoint of any number of parts and of a build of
// the same precision. A rank reads what its shard owns; that the parts hold each element once is checked of all. A mean
// over steps that the model keeps is read too, where the checkpoint has one (it must where state.json tells of samples);
// one that the model does not keep is passed over. Errors: as above; checksums are checkpoint_verify's affair.
int checkpoint_read_training(const char *folder, Llama3 *m, Error *err);

// *state = the object in trainer/state.json, to be freed by cJSON_Delete. Errors: 2 (missing, no JSON, a format
// version that this program does not know: "written by version X"), 1 (unreadable).
int checkpoint_read_state(const char *folder, cJSON **state, Error *err);

#ifdef __cplusplus
}
#endif
#endif
