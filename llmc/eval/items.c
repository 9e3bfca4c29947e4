#include "eval/items.h"

#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "loader/header.h"

static const char magic[8] = "L3EVALS";
enum { ENTRY_BYTES = 16, TOKEN_BYTES = 4 }; // of an item or ending; of a token

// The counts must fill the file exactly. Each is compared with what the file has room for before anything is
// summed.
static int check_size(const EvalSet *set, uint64_t items, uint64_t endings, uint64_t tokens, uint64_t size,
                      Error *err) {
    const uint64_t bytes = size - EVALSET_HEADER_BYTES;
    const uint64_t most = bytes / TOKEN_BYTES; // of anything
    const bool small = items <= most && endings <= most && tokens <= most;
    if (small && items * ENTRY_BYTES + endings * ENTRY_BYTES + tokens * TOKEN_BYTES == bytes) return 0;
    return fail_input(err,
                      "%s: header counts %llu items, %llu endings and %llu tokens, expected what fills the %llu bytes "
                      "behind it: truncated?",
                      set->path, (unsigned long long)items, (unsigned long long)endings, (unsigned long long)tokens,
                      (unsigned long long)bytes);
}

static int read_fields(EvalSet *set, const uint8_t *header, uint64_t size, Error *err) {
    const uint32_t kind = load_u32(header + 16), vocab_size = load_u32(header + 20);
    const uint64_t items = load_u64(header + 24), endings = load_u64(header + 32), tokens = load_u64(header + 40);
    if (kind < EVAL_CHOICE || kind > EVAL_NEEDLES)
        return fail_input(err, "%s: kind is %u, expected 1 (multiple choice), 2 (documents) or 3 (needles)", set->path,
                          kind);
    if (vocab_size < 1 || vocab_size > INT32_MAX)
        return fail_input(err, "%s: vocabulary size is %u, expected 1 to %d", set->path, vocab_size, INT32_MAX);
    if (items == 0) return fail_input(err, "%s: number of items is 0, expected at least 1", set->path);
    int code = check_size(set, items, endings, tokens, size, err);
    if (code) return code;
    set->kind = (EvalKind)kind;
    set->vocab_size = (int)vocab_size;
    set->num_items = (int64_t)items;
    set->num_endings = (int64_t)endings;
    set->num_tokens = (int64_t)tokens;
    memcpy(set->tokenizer_sha256, header + 48, sizeof set->tokenizer_sha256);
    return 0;
}

static int bad_entry(const EvalSet *set, const char *entry, int64_t index, const char *field, uint32_t found,
                     const char *expected, Error *err) {
    return fail_input(err, "%s: %s %lld: %s is %u, expected %s", set->path, entry, (long long)index, field, found,
                      expected);
}

int evalset_depth(const EvalSet *set, int depth) {
    for (int i = 0; i < set->num_depths; i++)
        if (set->depths[i] == depth) return i;
    return -1;
}

// What is left of the endings and of the tokens while items take theirs.
typedef struct {
    int64_t ending, token;
} Taken;

static int read_ending(EvalSet *set, const uint8_t *entry, Taken *taken, Error *err) {
    const uint32_t tokens = load_u32(entry), characters = load_u32(entry + 4), bytes = load_u32(entry + 8);
    const int64_t index = taken->ending, left = set->num_tokens - taken->token;
    if (tokens < 1 || tokens > left || tokens > INT_MAX)
        return bad_entry(set, "ending", index, "number of tokens", tokens, "1 to what the file has left", err);
    if (characters < 1)
        return bad_entry(set, "ending", index, set->kind == EVAL_DOCUMENTS ? "number of words" : "number of characters",
                         characters, "at least 1", err);
    if (bytes < 1) return bad_entry(set, "ending", index, "number of bytes", bytes, "at least 1", err);
    if (load_u32(entry + 12) != 0) return bad_entry(set, "ending", index, "last field", load_u32(entry + 12), "0", err);
    set->endings[index] = (EvalEnding){taken->token, (int)tokens, characters, bytes};
    taken->token += tokens;
    taken->ending++;
    return 0;
}

// Keeps set->depths sorted.
static void add_depth(EvalSet *set, int depth) {
    int at = set->num_depths++;
    for (; at > 0 && set->depths[at - 1] > depth; at--) set->depths[at] = set->depths[at - 1];
    set->depths[at] = depth;
}

// The last field of an item's entry; tokens: of the item.
static int read_depth(EvalSet *set, int64_t index, uint32_t depth, int64_t tokens, Error *err) {
    if (set->kind != EVAL_NEEDLES) return depth ? bad_entry(set, "item", index, "last field", depth, "0", err) : 0;
    if (depth > EVALSET_WHOLE_DEPTH) return bad_entry(set, "item", index, "depth", depth, "0 to 10000", err);
    if (index == 0) set->length = tokens;
    if (tokens != set->length)
        return fail_input(err, "%s: item %lld has %lld tokens, expected %lld, as item 0", set->path, (long long)index,
                          (long long)tokens, (long long)set->length);
    set->items[index].depth = (int)depth;
    if (evalset_depth(set, (int)depth) >= 0) return 0;
    if (set->num_depths == EVALSET_MAX_DEPTHS)
        return fail_input(err, "%s: more than %d different depths", set->path, EVALSET_MAX_DEPTHS);
    add_depth(set, (int)depth);
    return 0;
}

static int read_item(EvalSet *set, int64_t index, const uint8_t *entry, const uint8_t *ending_entries, Taken *taken,
                     Error *err) {
    const uint32_t context = load_u32(entry), endings = load_u32(entry + 4), label = load_u32(entry + 8);
    const bool documents = set->kind == EVAL_DOCUMENTS;
    if (context < 1 || context > set->num_tokens - taken->token || context > INT_MAX || (documents && context != 1))
        return bad_entry(set, "item", index, "number of context tokens", context,
                         documents ? "1" : "1 to what the file has left", err);
    if (endings < 1 || endings > set->num_endings - taken->ending || endings > INT_MAX || (documents && endings != 1))
        return bad_entry(set, "item", index, "number of endings", endings,
                         documents ? "1" : "1 to what the file has left", err);
    if (label >= endings) return bad_entry(set, "item", index, "label", label, "the index of one of its endings", err);
    const int64_t begin = taken->token;
    set->items[index] = (EvalItem){begin, taken->ending, (int)context, (int)endings, (int)label, 0};
    taken->token += context;
    for (uint32_t i = 0; i < endings; i++) {
        int code = read_ending(set, ending_entries + (size_t)taken->ending * ENTRY_BYTES, taken, err);
        if (code) return code;
    }
    return read_depth(set, index, load_u32(entry + 12), taken->token - begin, err);
}

static int read_tokens(EvalSet *set, const uint8_t *from, Error *err) {
    for (int64_t i = 0; i < set->num_tokens; i++) {
        const uint32_t id = load_u32(from + i * TOKEN_BYTES);
        if (id >= (uint32_t)set->vocab_size)
            return fail_input(err, "%s: token %lld has id %u, expected one below the vocabulary size %d", set->path,
                              (long long)i, id, set->vocab_size);
        set->tokens[i] = (int32_t)id;
    }
    return 0;
}

static int read_entries(EvalSet *set, const uint8_t *body, Error *err) {
    set->items = calloc((size_t)set->num_items, sizeof *set->items);
    set->endings = calloc((size_t)set->num_endings + 1, sizeof *set->endings); // + 1: 0 bytes may come back as NULL
    set->tokens = calloc((size_t)set->num_tokens + 1, sizeof *set->tokens);
    if (!set->items || !set->endings || !set->tokens) return fail_fault(err, "%s: no memory", set->path);
    const uint8_t *endings = body + (size_t)set->num_items * ENTRY_BYTES;
    Taken taken = {0, 0};
    for (int64_t i = 0; i < set->num_items; i++) {
        int code = read_item(set, i, body + (size_t)i * ENTRY_BYTES, endings, &taken, err);
        if (code) return code;
    }
    if (taken.ending != set->num_endings || taken.token != set->num_tokens)
        return fail_input(err, "%s: its items take %lld endings and %lld tokens, expected the header's %lld and %lld",
                          set->path, (long long)taken.ending, (long long)taken.token, (long long)set->num_endings,
                          (long long)set->num_tokens);
    return read_tokens(set, endings + (size_t)set->num_endings * ENTRY_BYTES, err);
}

static int parse(EvalSet *set, const uint8_t *data, size_t size, Error *err) {
    const size_t count = size < HEADER_BYTES ? size : HEADER_BYTES;
    int code = header_check(data, count, magic, EVALSET_VERSION, "a file of prepare_eval.py", set->path, err);
    if (!code) code = header_check_zero(data, 80, EVALSET_HEADER_BYTES, set->path, err);
    if (!code) code = read_fields(set, data, size, err);
    if (!code) code = read_entries(set, data + EVALSET_HEADER_BYTES, err);
    return code;
}

int evalset_open(EvalSet **out, const char *path, Error *err) {
    char *data = NULL;
    size_t size = 0;
    int code = file_read_whole(path, EVALSET_MAX_BYTES, &data, &size, err);
    if (code) return code;
    EvalSet *set = calloc(1, sizeof *set);
    if (set) set->path = strdup(path);
    code = set && set->path ? parse(set, (const uint8_t *)data, size, err) : fail_fault(err, "%s: no memory", path);
    free(data);
    if (code)
        evalset_close(set);
    else
        *out = set;
    return code;
}

void evalset_close(EvalSet *set) {
    if (!set) return;
    free(set->path);
    free(set->items);
    free(set->endings);
    free(set->tokens);
    free(set);
}
