// What --task dpo compares with: the log-probability that the reference model, the one that training begins with, gives to
// each answer of a set of comparisons. Computed once, and kept as a file of its own beside the data, so that training
// holds one model and not two.
//
//   reference_<16 digits>.bin, little endian; the digits are those of all that the values depend on
//   offset  type      field
//        0  char[8]   magic "L3REFER\0"
//        8  u32       version, 1
//       12  u32       byte order mark, 0x01020304
//       16  u64       fingerprint of the model (reference_model)
//       24  u64       fingerprint of the data (loader_fingerprint)
//       32  u64       number of answers
//       40  u64       seed of the packs
//       48  u32, u32  rows and tokens a row of a micro-batch
//       56  u64       zero
//       64            fp32 [answers], in the order of AnswerSpan's numbers
//      ...  char[32]  XXH128 of all before, hexadecimal
//
// Rounding depends on where in a row an answer stands. So the packs are part of the name: with those of the training, the
// model's log-probabilities are those of its reference to the bit before the first update.
#ifndef LLMC_TRAIN_REF_LOGPROBS_H
#define LLMC_TRAIN_REF_LOGPROBS_H

#include <limits.h>
#include <stdint.h>

#include "loader/loader.h"
#include "model/llama3_batch.h"
#include "model/llama3_create.h"
#include "run/progress.h"
#include "ranks/team.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    uint64_t model, data; // fingerprints
    uint64_t answers, seed;
    int B, T;
} ReferenceKey;

enum { REFERENCE_NAME_SIZE = 40 };
void reference_name(char name[REFERENCE_NAME_SIZE], const ReferenceKey *key);

// Of weights, configuration, precision, target ("cpu", "cuda") and program version. Waits for the device. Errors: 1.
int reference_model(uint64_t *fingerprint, Llama3 *m, const char *target, Error *err);

// values [key->answers] (=) from the file of that key in the folder. *found false: there is none. Errors: 2 (damaged, or the
// file of another key: the file, what was expected and found), 1.
int reference_read(float *values, bool *found, const char *folder, const ReferenceKey *key, Error *err);

// Makes that file; it appears whole or not at all. Errors: 2 (the path), 1.
int reference_write(const float *values, const char *folder, const ReferenceKey *key, Error *err);

// values [key->answers] (=) of the model as it stands, by one pass over the loader's packs (one rank, one micro-batch a step,
// `once`), 0 for answers that none holds. The team divides them. *stopped: a signal ended it, values are not complete.
// Collective. Errors: the loader's; 1 (an answer's value that is not finite).
int reference_compute(float *values, bool *stopped, Llama3 *m, Loader *loader, const ReferenceKey *key,
                      const Team *team, Progress *progress, Error *err);

// The model's micro-batch i is one of the set's: its answers' values go where the loss looks for them (llama3_ref_logprobs).
void reference_fill(Llama3 *m, int i, const float *values);

#ifdef __cplusplus
}
#endif
#endif
