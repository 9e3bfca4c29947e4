// Row files, the data of finetuning: rows of token ids, each a conversation or a comparison of answers to one prompt, and
// for each token whether it is a target. Rows are never cut. All numbers are little endian.
//
//   offset  type     field
//        0  char[8]  magic "L3ROWS\0\0"
//        8  u32      version, 1
//       12  u32      byte order mark, 0x01020304
//       16  u32      kind: 1 conversations, 2 comparisons
//       20  u32      vocabulary size, 1 to 2^30: every id is below it
//       24  u64      number of tokens
//       32  u32      id that begins a text (0xFFFFFFFF: none)
//       36  u32      id that ends an assistant's turn (0xFFFFFFFF: none)
//       40  u8[32]   SHA-256 of the tokenizer.json the ids belong to
//       72  u64      number of rows
//       80  u8[176]  zero
//      256  u32 a token: bits 0 to 29 its id; bit 31: it is a target of the loss; bit 30: a header's, or ends a turn
//           32 bytes a row: u64 its first token; u32 length of its prompt; u32[3] lengths of its answers, best first (0:
//           none); u32 source, an index into the list "sources" of meta.json beside; u32 line there, from 1 (0: unknown)
//
// Messages count rows and their tokens from 1. Rows lie in the order of their tokens, without gaps. A conversation is all
// prompt: it has at least 2 tokens, and at least one after the first is trained. A comparison has a prompt of at least 1
// token and 2 or 3 answers, each with a trained token that is neither a header's nor the end of a turn.
#ifndef LLMC_LOADER_ROWS_H
#define LLMC_LOADER_ROWS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/hash.h"
#include "loader/header.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { ROWS_HEADER_BYTES = HEADER_BYTES, ROWS_ENTRY_BYTES = 32, ROWS_VERSION = 1, ROWS_MAX_ANSWERS = 3 };
#define ROWS_NO_ID UINT32_MAX // bos_id or eos_id of a file that has none

// of a token
#define ROWS_TRAINED ((uint32_t)1 << 31)
#define ROWS_FORMAT ((uint32_t)1 << 30)
#define ROWS_ID (ROWS_FORMAT - 1)

typedef enum { ROWS_CONVERSATIONS = 1, ROWS_COMPARISONS = 2 } RowsKind;

typedef struct {
    uint64_t first;                     // token
    uint32_t prompt;                    // tokens
    uint32_t answers[ROWS_MAX_ANSWERS]; // tokens of each; 0: none
    uint32_t source, line;
} Row;

typedef struct {
    char *path; // owned
    int fd;
    RowsKind kind;
    uint32_t vocab_size, bos_id, eos_id;
    uint64_t num_tokens, num_rows;
    uint8_t tokenizer_sha256[32];
    Row *rows;     // [num_rows], owned
    uint8_t *seen; // a bit for each id below vocab_size, owned
    Digest digest; // of everything after the header
} RowFile;

// Opens the file at path and checks all of it, every token included; the table of rows stays in memory. On failure
// *file holds nothing to close. Errors: 2 (content: file, row, field), 1 (cannot be opened or read, memory).
int rows_open(RowFile *file, const char *path, Error *err);

bool rows_have_token(const RowFile *file, uint32_t id);

uint64_t row_tokens(const Row *row); // of prompt and answers
int row_num_answers(const Row *row);

// tokens[0..row_tokens) = the row's, with their flags. Reads by pread, so that a file that shrinks is an error (1) and
// not a signal. An id that is not below vocab_size is an error (2) that names file, row and token. May be called from
// several threads.
int rows_read(const RowFile *file, uint64_t row, uint32_t *tokens, Error *err);

void rows_close(RowFile *file);

#ifdef __cplusplus
}
#endif
#endif
