// What the decoder of a tokenizer.json does with tokens to make text of them. Three kinds:
//   ByteLevel                                              each character of a token stands for a byte (GPT-2, Llama 3)
//   Replace "▁" by a blank, ByteFallback, Fuse, Strip      SentencePiece's: Llama 2, TinyLlama; the last three may be missing
//   Metaspace                                              "▁" is a blank, in the first token nothing
#ifndef LLMC_LOADER_TOKEN_DECODER_H
#define LLMC_LOADER_TOKEN_DECODER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/json.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    bool byte_level;
    bool blanks;        // "▁" stands for a blank
    bool first_without; // in the first token "▁" stands for nothing
    bool byte_fallback; // <0x41> is the byte 41
    int strip;          // how many blanks are removed at the beginning of the text
} TokenDecoder;

// Reads the field "decoder" of the file at path. Errors: 2 (none of the three kinds, named as what it is).
int token_decoder_read(TokenDecoder *out, const cJSON *json, const char *path, Error *err);

// The byte that a token such as <0x0A> stands for under byte_fallback, or -1.
int token_decoder_byte(const char *token, size_t length);

#ifdef __cplusplus
}
#endif
#endif
