// The file of a set's reference log-probabilities, which lies beside the data.
//
//   reference_<16 digits>.bin, little endian; the digits are a hash of the header, that is of all that the values depend on
//   offset  type      field
//        0  char[8]   magic "L3REFER\0"
//        8  u32       version, 1
//       12  u32       byte order mark, 0x01020304
//       16  u64       fingerprint of the model: of weights, configuration, precision, target and program version
//       24  u64       fingerprint of the data (loader_fingerprint)
//       32  u64       number of answers
//       40  u64       seed of the packs
//       48  u32, u32  rows and tokens a row of a micro-batch
//       56  u64       zero
//       64            fp32 [answers], in the order of AnswerSpan's numbers
//      ...  char[32]  XXH128 of all before, hexadecimal
//
// Rounding depends on where in a row an answer stands. So seed, rows and length, which determine the packs, are part of it.
#ifndef LLMC_TRAIN_REF_LOGPROBS_FILE_H
#define LLMC_TRAIN_REF_LOGPROBS_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    uint64_t model, data; // fingerprints
    uint64_t answers, seed;
    int B, T;
} RefLogprobsKey;

enum { REF_LOGPROBS_NAME_SIZE = 40 };
void ref_logprobs_name(char name[REF_LOGPROBS_NAME_SIZE], const RefLogprobsKey *key);

// logprobs [key->answers] = what the file of that key in the folder holds. *found false: there is no such file. Errors: 2 (it is
// damaged, or of another key: names the file, what was expected and found), 1.
int ref_logprobs_read(float *logprobs, bool *found, const char *folder, const RefLogprobsKey *key, Error *err);

// Writes that file, which appears whole or not at all. Errors: 2 (the path), 1.
int ref_logprobs_write(const float *logprobs, const char *folder, const RefLogprobsKey *key, Error *err);

#ifdef __cplusplus
}
#endif
#endif
