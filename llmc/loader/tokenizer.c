#include "loader/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/sha256.h"
#include "base/text.h"
#include "base/utf8.h"
#include "loader/token_decoder.h"

enum { MAX_ID = 1 << 24, MAX_FILE_BYTES = 1 << 28 };

typedef struct {
    const char *bytes; // into the pool; NULL: no such id
    uint32_t length;
    int16_t byte; // that it stands for where the decoder has ByteFallback; -1: none
    bool added, special;
} Token;

struct Tokenizer {
    TokenDecoder decoder;
    Token *tokens;
    int vocab_size;
    char *pool; // bytes of all tokens, one after another
    uint8_t sha256[SHA256_BYTES];
};

// ---- GPT-2's map of bytes to characters: printable Latin-1 stands for itself, the 68 others for U+0100
// onwards.

static bool stands_for_itself(int byte) {
    return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

typedef struct {
    int16_t byte_of[256 + 68]; // character -> byte; -1: none
} ByteMap;

static void make_byte_map(ByteMap *map) {
    int next = 256;
    memset(map->byte_of, -1, sizeof map->byte_of);
    for (int byte = 0; byte < 256; byte++) map->byte_of[stands_for_itself(byte) ? byte : next++] = (int16_t)byte;
}

// Undoes the map; returns the number of bytes, or -1 where a character stands for no byte. The text is UTF-8,
// which json_read_object has checked; the map's characters have at most two bytes.
static int unmap(const ByteMap *map, const char *text, char *bytes) {
    int length = 0;
    for (const unsigned char *at = (const unsigned char *)text; *at != 0; at++) {
        int character = *at;
        if (*at >= 0xE0) return -1;
        if (*at >= 0x80) {
            character = (*at & 0x1F) << 6 | (at[1] & 0x3F);
            at++;
        }
        if (character >= 256 + 68 || map->byte_of[character] < 0) return -1;
        bytes[length++] = (char)map->byte_of[character];
    }
    return length;
}

// ---- Checking the file

static bool has_type(const cJSON *object, const char *type) {
    const cJSON *item = json_get(object, "type");
    return cJSON_IsString(item) && strcmp(item->valuestring, type) == 0;
}

static int check_kind(const cJSON *json, const char *path, Error *err) {
    const cJSON *model = json_get(json, "model"), *type = json_get(model, "type");
    int code = json_check_unique(json, path, "", err);
    if (code == 0 && cJSON_IsObject(model)) code = json_check_unique(model, path, "model.", err);
    if (code != 0) return code;
    // files of early versions of `tokenizers` leave the type out
    if (!cJSON_IsObject(model) || (type != NULL && !has_type(model, "BPE"))) {
        return fail_input(err, "%s: model.type is %.40s, expected BPE", path,
                          cJSON_IsString(type) ? type->valuestring : "missing");
    }
    const cJSON *vocab = json_get(model, "vocab"), *added = json_get(json, "added_tokens");
    if (!cJSON_IsObject(vocab) || vocab->child == NULL)
        return fail_input(err, "%s: model.vocab is not an object with tokens", path);
    if (added != NULL && !cJSON_IsArray(added)) return fail_input(err, "%s: added_tokens is not a list", path);
    return json_check_unique(vocab, path, "model.vocab: ", err);
}

// ---- Collecting tokens: once to measure, once to keep.

typedef struct {
    Tokenizer *tokenizer; // tokens and pool are NULL while measuring
    uint64_t pool_bytes;
    int max_id;
    ByteMap map;
    const char *path;
    Error *err;
} Collection;

static int add_token(Collection *to, uint64_t id, const char *content, bool added, bool special) {
    Tokenizer *tokenizer = to->tokenizer;
    size_t length = strlen(content);
    if (tokenizer->tokens == NULL) { // measuring
        if ((int)id > to->max_id) to->max_id = (int)id;
        to->pool_bytes += length;
        return 0;
    }
    Token *token = &tokenizer->tokens[id];
    char *bytes = tokenizer->pool + to->pool_bytes;
    if (token->bytes != NULL && !added) {
        return fail_input(to->err, "%s: model.vocab: id %d stands twice, the second time for \"%.80s\"", to->path,
                          (int)id, content);
    }
    if (token->bytes != NULL && token->added) {
        return fail_input(to->err, "%s: added_tokens: id %d stands twice", to->path, (int)id);
    }
    int unmapped = added || !tokenizer->decoder.byte_level ? -1 : unmap(&to->map, content, bytes);
    if (unmapped < 0)
        memcpy(bytes, content, length); // as `tokenizers` does: text that is not in the map is itself
    else
        length = (size_t)unmapped;
    int byte = tokenizer->decoder.byte_fallback ? token_decoder_byte(content, length) : -1;
    *token =
        (Token){.bytes = bytes, .length = (uint32_t)length, .byte = (int16_t)byte, .added = added, .special = special};
    to->pool_bytes += length;
    return 0;
}

static int collect_vocab(Collection *to, const cJSON *vocab) {
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, vocab) {
        uint64_t id;
        if (!json_is_count(item, MAX_ID - 1, &id)) {
            return fail_input(to->err, "%s: model.vocab: id of \"%.80s\" is not an integer from 0 to %d", to->path,
                              item->string, MAX_ID - 1);
        }
        int code = add_token(to, id, item->string, false, false);
        if (code != 0) return code;
    }
    return 0;
}

static int collect_added(Collection *to, const cJSON *added) {
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, added) {
        const cJSON *content = json_get(item, "content");
        uint64_t id;
        if (!cJSON_IsString(content) || !json_is_count(json_get(item, "id"), MAX_ID - 1, &id)) {
            return fail_input(to->err, "%s: added_tokens: expected objects with content (text) and id (0 to %d)",
                              to->path, MAX_ID - 1);
        }
        int code = add_token(to, id, content->valuestring, true, cJSON_IsTrue(json_get(item, "special")));
        if (code != 0) return code;
    }
    return 0;
}

static int collect(Collection *to, const cJSON *json) {
    to->pool_bytes = 0;
    int code = collect_vocab(to, json_get(json_get(json, "model"), "vocab"));
    return code != 0 ? code : collect_added(to, json_get(json, "added_tokens"));
}

static int build(Tokenizer *tokenizer, const cJSON *json, const char *path, Error *err) {
    int code = check_kind(json, path, err);
    if (code == 0) code = token_decoder_read(&tokenizer->decoder, json_get(json, "decoder"), path, err);
    if (code != 0) return code;
    Collection to = {.tokenizer = tokenizer, .path = path, .err = err};
    make_byte_map(&to.map);
    code = collect(&to, json);
    if (code != 0) return code;
    tokenizer->vocab_size = to.max_id + 1;
    tokenizer->pool = malloc(to.pool_bytes + 1);
    tokenizer->tokens = calloc((size_t)tokenizer->vocab_size, sizeof *tokenizer->tokens);
    if (tokenizer->pool == NULL || tokenizer->tokens == NULL)
        return fail_fault(err, "%s: no memory for its tokens", path);
    return collect(&to, json);
}

// A byte order mark is passed over elsewhere, but this file travels byte for byte, and other programs do not take it.
static int check_begin(const char *text, size_t length, const char *path, Error *err) {
    size_t mark = sizeof TEXT_MARK - 1;
    if (length < mark || memcmp(text, TEXT_MARK, mark) != 0) return 0;
    return fail_input(err, "%s: begins with a byte order mark, expected '{': remove it, tail -c +4 FILE > NEW", path);
}

static int open_text(Tokenizer *tokenizer, const char *text, size_t length, const char *path, Error *err) {
    int code = check_begin(text, length, path, err);
    if (code != 0) return code;
    Sha256 sha;
    sha256_begin(&sha);
    sha256_add(&sha, text, length);
    sha256_end(&sha, tokenizer->sha256);
    cJSON *json = NULL;
    code = json_parse_object(&json, text, length, path, err);
    if (code == 0) code = build(tokenizer, json, path, err);
    cJSON_Delete(json);
    return code;
}

int tokenizer_open(Tokenizer **out, const char *path, Error *err) {
    char *text = NULL;
    size_t length = 0;
    int code = file_read_whole(path, MAX_FILE_BYTES, &text, &length, err);
    if (code != 0) return code;
    Tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    code = tokenizer == NULL ? fail_fault(err, "%s: no memory", path) : open_text(tokenizer, text, length, path, err);
    free(text);
    if (code != 0)
        tokenizer_close(tokenizer);
    else
        *out = tokenizer;
    return code;
}

void tokenizer_close(Tokenizer *tokenizer) {
    if (tokenizer == NULL) return;
    free(tokenizer->tokens);
    free(tokenizer->pool);
    free(tokenizer);
}

// ---- Decoding

typedef struct {
    const Tokenizer *tokenizer;
    const int32_t *ids;
    size_t count, at;
    bool skip_special;
} Reader;

typedef struct {
    char *text;
    size_t room, total;
    int strip; // blanks that are still to be left out at the begin
} Writer;

// The next token that is not left out; NULL: there is none.
static const Token *next_token(Reader *from) {
    static const Token unknown = {.bytes = "\xEF\xBF\xBD", .length = 3, .byte = -1};
    while (from->at < from->count) {
        const Tokenizer *tokenizer = from->tokenizer;
        int32_t id = from->ids[from->at++];
        bool known = id >= 0 && id < tokenizer->vocab_size && tokenizer->tokens[id].bytes != NULL;
        const Token *token = known ? &tokenizer->tokens[id] : &unknown;
        if (!token->special || !from->skip_special) return token;
    }
    return NULL;
}

static void write_text(Writer *to, const char *bytes, size_t length) {
    for (; to->strip > 0 && length > 0 && *bytes == ' '; to->strip--) bytes++, length--;
    if (length == 0) return;
    to->strip = 0;
    size_t left = to->total < to->room ? to->room - to->total : 0;
    if (left > 0) memcpy(to->text + to->total, bytes, length < left ? length : left);
    to->total += length;
}

static void write_token(Writer *to, const Token *token, const TokenDecoder *decoder, bool first) {
    enum { SIGN = 3 }; // bytes of "▁"
    if (!decoder->blanks) {
        write_text(to, token->bytes, token->length);
        return;
    }
    for (size_t at = 0, from = 0; from < token->length; from = at) {
        bool sign = token->length - at >= SIGN && memcmp(token->bytes + at, "\xE2\x96\x81", SIGN) == 0;
        at += sign ? SIGN : 1;
        if (!sign)
            write_text(to, token->bytes + from, 1);
        else if (!first || !decoder->first_without)
            write_text(to, " ", 1);
    }
}

// Byte tokens that follow each other are text where all of them together are UTF-8.
static bool is_text(Reader from, size_t count) {
    unsigned char character[4];
    size_t length = 0;
    for (; count > 0; count--) {
        character[length++] = (unsigned char)next_token(&from)->byte;
        if (utf8_length(character, length) > 0)
            length = 0;
        else if (length == sizeof character)
            return false;
    }
    return length == 0;
}

// Writes a run of byte tokens, each as U+FFFD where they are no text, and moves the reader past them.
static void write_bytes(Writer *to, Reader *from) {
    Reader ahead = *from;
    size_t count = 0;
    for (const Token *token; (token = next_token(&ahead)) != NULL && token->byte >= 0;) count++;
    bool text = is_text(*from, count);
    for (; count > 0; count--) {
        char byte = (char)next_token(from)->byte;
        if (text)
            write_text(to, &byte, 1);
        else
            write_text(to, "\xEF\xBF\xBD", 3);
    }
}

size_t tokenizer_decode(const Tokenizer *tokenizer, const int32_t *ids, size_t count, bool skip_special, char *text,
                        size_t capacity) {
    Reader from = {.tokenizer = tokenizer, .ids = ids, .count = count, .skip_special = skip_special};
    Writer to = {.text = text, .room = capacity > 0 ? capacity - 1 : 0, .strip = tokenizer->decoder.strip};
    bool first = true;
    for (Reader here = from;; here = from) {
        const Token *token = next_token(&from);
        if (token == NULL) break;
        if (token->byte >= 0) {
            from = here;
            write_bytes(&to, &from);
        } else {
            write_token(&to, token, &tokenizer->decoder, first);
        }
        first = false;
    }
    if (capacity > 0) text[to.total < to.room ? to.total : to.room] = '\0';
    return to.total;
}

int tokenizer_vocab_size(const Tokenizer *tokenizer) { return tokenizer->vocab_size; }
const uint8_t *tokenizer_sha256(const Tokenizer *tokenizer) {
    static const uint8_t none[SHA256_BYTES];
    return tokenizer ? tokenizer->sha256 : none;
}
