// The items of an evaluation, from a file that data/prepare_eval.py makes. All numbers are little endian.
//
//   offset  type     field
//        0  char[8]  magic "L3EVALS\0"
//        8  u32      version, 1
//       12  u32      byte order mark, 0x01020304
//       16  u32      kind: 1 multiple choice, 2 documents, 3 needles
//       20  u32      vocabulary size: every id is below it
//       24  u64      number of items
//       32  u64      number of endings
//       40  u64      number of tokens
//       48  u8[32]   SHA-256 of the tokenizer.json the ids belong to
//       80  u8[176]  zero
//      256           an entry for each item:   u32 context tokens, u32 endings, u32 label, u32 depth
//                    an entry for each ending: u32 tokens, u32 characters, u32 bytes, u32 zero
//                    the tokens, u32: of each item its context, then its endings
//
// Multiple choice: the label is the index of the right ending; characters and bytes are the ending's as text.
// Documents: an item has one ending, the document, after a context of one token that begins it; the label is
// 0, and "characters" counts words. Contexts and endings have at least one token.
// Needles: as multiple choice; the right ending stands somewhere in the context, and depth, from 0 to 10000, says where, in
// hundredths of a percent of the context. All items have the same length: the tokens of context and endings together. Of
// other kinds the depth is 0.
#ifndef LLMC_EVAL_ITEMS_H
#define LLMC_EVAL_ITEMS_H

#include <stdint.h>

#include "base/error.h"
#include "loader/header.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { EVALSET_HEADER_BYTES = HEADER_BYTES, EVALSET_VERSION = 1, EVALSET_MAX_BYTES = 1 << 30 };
enum { EVALSET_MAX_DEPTHS = 128, EVALSET_WHOLE_DEPTH = 10000 };

typedef enum { EVAL_CHOICE = 1, EVAL_DOCUMENTS = 2, EVAL_NEEDLES = 3 } EvalKind;

typedef struct {
    int64_t context;      // where in `tokens` the context begins
    int64_t first_ending; // in `endings`
    int context_tokens, num_endings, label;
    int depth; // of needles
} EvalItem;

typedef struct {
    int64_t tokens; // where in `tokens` it begins
    int num_tokens;
    uint32_t characters, bytes; // of documents: words, bytes
} EvalEnding;

typedef struct {
    char *path;
    EvalKind kind;
    int vocab_size;
    int64_t num_items, num_endings, num_tokens;
    EvalItem *items;
    EvalEnding *endings;
    int32_t *tokens;
    uint8_t tokenizer_sha256[32];
    int64_t length;                 // of needles: tokens of an item; else 0
    int depths[EVALSET_MAX_DEPTHS]; // of needles: the items', rising, [num_depths]
    int num_depths;
} EvalSet;

// Reads the whole file (at most EVALSET_MAX_BYTES) and checks every count, length, label and id, and that the
// file ends where they say. Errors: 2 (content; *out stays), 1 (cannot be read, no memory).
int evalset_open(EvalSet **out, const char *path, Error *err);
void evalset_close(EvalSet *set); // NULL is allowed

int evalset_depth(const EvalSet *set, int depth); // its index in set->depths; -1: it is not there

#ifdef __cplusplus
}
#endif
#endif
