// A shard: a flat file of token ids after a 256-byte header, both little endian.
//
//   offset  type     field
//        0  char[8]  magic "L3SHARD\0"
//        8  u32      version, 1
//       12  u32      byte order mark, 0x01020304
//       16  u32      bits of a token, 16 or 32
//       20  u32      vocabulary size: every id is below it
//       24  u64      number of tokens
//       32  u32      id that begins a document (0xFFFFFFFF: none)
//       36  u32      id that ends a document (0xFFFFFFFF: none)
//       40  u8[32]   SHA-256 of the tokenizer.json the ids belong to
//       72  u8[184]  zero
//      256           tokens
// Read as well: the token shards of llm.c, 1024 bytes of u32 (magic, version, number of tokens, zeros) and then the tokens
// of GPT-2 (magic 20240520, version 1, 16 bits) or Llama 3 (magic 20240801, version 7, 32 bits). They name no tokenizer;
// their vocabulary and the token that begins each document are those models'.
#ifndef LLMC_LOADER_SHARD_H
#define LLMC_LOADER_SHARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "loader/header.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SHARD_HEADER_BYTES = HEADER_BYTES, SHARD_VERSION = 1 };
#define SHARD_NO_ID UINT32_MAX // bos_id or eos_id of a shard that has none

typedef struct {
    char *path; // owned
    int fd;
    uint32_t token_bits, vocab_size, bos_id, eos_id;
    uint64_t token_count;
    uint8_t tokenizer_sha256[32];
    uint32_t header_bytes;
    bool llmc; // one of llm.c's, which names no tokenizer: tokenizer_sha256 is zeros
} Shard;

// Opens the shard at path and checks its header and that its size is exactly the header's and its tokens'.
// On failure *shard holds nothing to close. Errors: 2 (content), 1 (cannot be opened or read).
int shard_open(Shard *shard, const char *path, Error *err);

// Whether the first HEADER_BYTES of a file (`count`: those it has) begin a shard of llm.c.
bool shard_is_llmc(const uint8_t *header, size_t count);

// Fits a shard of llm.c to a model of fewer ids than GPT-2 or Llama 3 have: its vocabulary becomes the model's, and it has no
// begin token if that lies beyond. An id outside the vocabulary among the first million is an error (2), as in shard_read.
int shard_fit(Shard *shard, uint32_t vocab_size, Error *err);

// tokens[0..count) = ids first .. first+count of the shard; first + count <= token_count is the caller's
// duty. Reads by pread, so that a file that shrinks is an error (1) and not a signal. An id that is not below
// vocab_size is an error (2) that names file, position and id. May be called from several threads.
int shard_read(const Shard *shard, uint64_t first, size_t count, int32_t *tokens, Error *err);

void shard_close(Shard *shard);

#ifdef __cplusplus
}
#endif
#endif
