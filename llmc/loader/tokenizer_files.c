#include "loader/tokenizer_files.h"

const char *const tokenizer_files[TOKENIZER_FILES] = {
    [TOKENIZER_JSON] = "tokenizer.json",
    [TOKENIZER_MODEL] = "tokenizer.model",
    [TOKENIZER_SPECIAL_TOKENS] = "special_tokens_map.json",
    [TOKENIZER_ADDED_TOKENS] = "added_tokens.json",
    [TOKENIZER_CONFIG] = "tokenizer_config.json",
    [TOKENIZER_TEMPLATE] = "chat_template.jinja",
};
