// The files of a tokenizer in a Hugging Face directory, as they are copied from one to another.
#ifndef LLMC_LOADER_TOKENIZER_FILES_H
#define LLMC_LOADER_TOKENIZER_FILES_H

#ifdef __cplusplus
extern "C" {
#endif

enum {
    // the tokenizer itself
    TOKENIZER_JSON,
    TOKENIZER_MODEL, // SentencePiece's
    TOKENIZER_SPECIAL_TOKENS,
    TOKENIZER_ADDED_TOKENS,
    // what it is used with
    TOKENIZER_CONFIG,
    TOKENIZER_TEMPLATE, // of chats
    TOKENIZER_FILES
};

extern const char *const tokenizer_files[TOKENIZER_FILES]; // names

#ifdef __cplusplus
}
#endif
#endif
