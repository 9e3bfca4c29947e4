#include "data/loader.h"

#include <assert.h>
#include <errno.h>
#include <glob.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sha256.h"
#include "data/shard.h"

struct Loader {
    LoaderSpec spec;
    Shard *shards;
    int num_shards;
    uint64_t *first_window; // [num_shards + 1]: windows in the shards before; the last is the total
    uint64_t num_tokens, fingerprint;
    int32_t *row;      // [T + 1]
    int32_t *id_place; // [vocab_size + 1]: where in `order` the next position of an id goes
    int vocab_size;
};

// ---- The order of windows: a keyed permutation in O(1) memory.

static uint64_t mix(uint64_t x) { // the finaliser of SplitMix64 (Steele, Lea, Flood 2014)
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

// A Feistel network permutes the numbers of 2*half_bits bits, whatever its round function.
static uint64_t feistel(uint64_t x, int half_bits, uint64_t key) {
    uint64_t mask = ((uint64_t)1 << half_bits) - 1;
    uint64_t left = x >> half_bits, right = x & mask;
    for (uint64_t round = 1; round <= 8; round++) {
        uint64_t mixed = mix(mix(key + round * 0x9e3779b97f4a7c15u) ^ right) & mask;
        uint64_t next = left ^ mixed;
        left = right;
        right = next;
    }
    return left << half_bits | right;
}

// Walking the cycle until it comes back below n makes of that a permutation of 0..n-1; the power of four is
// less than 4n, so that takes fewer than 4 steps on average.
static uint64_t permute(uint64_t x, uint64_t n, uint64_t key) {
    int half_bits = 1;
    while (half_bits < 32 && (uint64_t)1 << (2 * half_bits) < n) half_bits++;
    do x = feistel(x, half_bits, key);
    while (x >= n);
    return x;
}

static uint64_t window_of_sample(const Loader *loader, uint64_t sample) {
    uint64_t windows = loader_num_windows(loader), epoch = sample / windows, position = sample % windows;
    if (!loader->spec.shuffle) return position;
    return permute(position, windows, mix(mix(loader->spec.seed + 0x9e3779b97f4a7c15u) + epoch));
}

// ---- Opening

static int check_spec(const LoaderSpec *spec, int vocab_size, Error *err) {
    const struct {
        const char *name;
        int value;
    } positive[] = {{"B", spec->B},
                    {"T", spec->T},
                    {"grad_accum", spec->grad_accum},
                    {"world", spec->world},
                    {"vocab_size", vocab_size}};
    for (size_t i = 0; i < sizeof positive / sizeof *positive; i++) {
        if (positive[i].value >= 1) continue;
        return fail_input(err, "loader: %s is %d, expected at least 1", positive[i].name, positive[i].value);
    }
    if (spec->rank < 0 || spec->rank >= spec->world) {
        return fail_input(err, "loader: rank is %d, expected 0 to %d", spec->rank, spec->world - 1);
    }
    if ((int64_t)spec->B * spec->T >= INT_MAX) {
        return fail_input(err, "loader: B * T is %lld, expected less than %d", (long long)spec->B * spec->T, INT_MAX);
    }
    return 0;
}

static int compare_paths(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

// Sorted by bytes: glob's own order depends on the user's language.
static int find_shards(glob_t *found, const char *pattern, Error *err) {
    int result = glob(pattern, GLOB_ERR | GLOB_NOSORT, NULL, found);
    if (result == GLOB_NOMATCH) return fail_input(err, "%s: no file matches, expected at least one shard", pattern);
    if (result == GLOB_ABORTED) return fail_input(err, "%s: its folder cannot be read: %s", pattern, strerror(errno));
    if (result != 0) return fail_fault(err, "%s: no memory for the list of shards", pattern);
    qsort(found->gl_pathv, found->gl_pathc, sizeof *found->gl_pathv, compare_paths);
    return 0;
}

static void format_digest(char text[65], const uint8_t digest[32]) {
    for (int i = 0; i < 32; i++) snprintf(text + 2 * i, 3, "%02x", digest[i]);
}

static int check_tokenizer(const Shard *shard, const uint8_t *expected, const char *whose, Error *err) {
    if (memcmp(shard->tokenizer_sha256, expected, 32) == 0) return 0;
    char has[65], wants[65];
    format_digest(has, shard->tokenizer_sha256);
    format_digest(wants, expected);
    return fail_input(err, "%s: made with the tokenizer of SHA-256 %.16s..., expected %.16s... (%s)", shard->path, has,
                      wants, whose);
}

static int check_agreement(const Shard *shard, const Shard *first, Error *err) {
    const struct {
        const char *name;
        uint32_t value, expected;
    } fields[] = {{"token width", shard->token_bits, first->token_bits},
                  {"vocabulary size", shard->vocab_size, first->vocab_size},
                  {"begin-of-document id", shard->bos_id, first->bos_id},
                  {"end-of-document id", shard->eos_id, first->eos_id}};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        if (fields[i].value == fields[i].expected) continue;
        return fail_input(err, "%s: %s is %u, expected %u as in %s", shard->path, fields[i].name, fields[i].value,
                          fields[i].expected, first->path);
    }
    return check_tokenizer(shard, first->tokenizer_sha256, first->path, err);
}

static int check_shard(const Loader *loader, const Shard *shard, const uint8_t *tokenizer_sha256, Error *err) {
    if (shard->vocab_size > (uint32_t)loader->vocab_size) {
        return fail_input(err, "%s: vocabulary size is %u, expected at most the model's %d", shard->path,
                          shard->vocab_size, loader->vocab_size);
    }
    if (tokenizer_sha256 != NULL) {
        int code = check_tokenizer(shard, tokenizer_sha256, "the run's tokenizer", err);
        if (code != 0) return code;
    }
    if (loader->spec.document_mask && shard->bos_id == SHARD_NO_ID) {
        return fail_input(err, "%s: no begin-of-document id, expected one for the document mask", shard->path);
    }
    if (shard->token_count < (uint64_t)loader->spec.T + 1) {
        return fail_input(err, "%s: %llu tokens, expected at least %lld for one window (sequence length + 1)",
                          shard->path, (unsigned long long)shard->token_count, (long long)loader->spec.T + 1);
    }
    return check_agreement(shard, &loader->shards[0], err);
}

static int open_shard(Loader *loader, const char *path, const uint8_t *tokenizer_sha256, Error *err) {
    int index = loader->num_shards;
    Shard *shard = &loader->shards[index];
    int code = shard_open(shard, path, err);
    if (code != 0) return code;
    loader->num_shards++;
    code = check_shard(loader, shard, tokenizer_sha256, err);
    if (code != 0) return code;
    uint64_t windows = (shard->token_count - 1) / (uint64_t)loader->spec.T;
    loader->first_window[index + 1] = loader->first_window[index] + windows;
    loader->num_tokens += shard->token_count;
    return 0;
}

static int allocate(Loader *loader, size_t num_paths, Error *err) {
    loader->shards = calloc(num_paths, sizeof *loader->shards);
    loader->first_window = calloc(num_paths + 1, sizeof *loader->first_window);
    loader->row = malloc(((size_t)loader->spec.T + 1) * sizeof *loader->row);
    loader->id_place = malloc(((size_t)loader->vocab_size + 1) * sizeof *loader->id_place);
    bool all =
        loader->shards != NULL && loader->first_window != NULL && loader->row != NULL && loader->id_place != NULL;
    return all ? 0 : fail_fault(err, "loader: no memory for %zu shards", num_paths);
}

static void add_u64(Sha256 *sha, uint64_t value) {
    uint8_t bytes[8];
    for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)(value >> 8 * i);
    sha256_add(sha, bytes, sizeof bytes);
}

// Everything that a header says, and the file's name without its folder: data may be moved, not changed.
static uint64_t compute_fingerprint(const Loader *loader) {
    Sha256 sha;
    sha256_begin(&sha);
    for (int i = 0; i < loader->num_shards; i++) {
        const Shard *shard = &loader->shards[i];
        const char *slash = strrchr(shard->path, '/'), *name = slash != NULL ? slash + 1 : shard->path;
        sha256_add(&sha, name, strlen(name) + 1);
        add_u64(&sha, shard->token_bits);
        add_u64(&sha, shard->vocab_size);
        add_u64(&sha, shard->token_count);
        add_u64(&sha, (uint64_t)shard->bos_id << 32 | shard->eos_id);
        sha256_add(&sha, shard->tokenizer_sha256, 32);
    }
    uint8_t digest[SHA256_BYTES];
    sha256_end(&sha, digest);
    uint64_t fingerprint = 0;
    for (int i = 0; i < 8; i++) fingerprint = fingerprint << 8 | digest[i];
    return fingerprint;
}

static int open_all(Loader *loader, char **paths, size_t count, const uint8_t *tokenizer_sha256, Error *err) {
    if (count > INT_MAX) return fail_input(err, "loader: %zu shards, expected at most %d", count, INT_MAX);
    int code = allocate(loader, count, err);
    for (size_t i = 0; i < count && code == 0; i++) code = open_shard(loader, paths[i], tokenizer_sha256, err);
    if (code == 0) loader->fingerprint = compute_fingerprint(loader);
    return code;
}

int loader_open(Loader **out, const char *pattern, const LoaderSpec *spec, int vocab_size,
                const uint8_t *tokenizer_sha256, Error *err) {
    int code = check_spec(spec, vocab_size, err);
    if (code != 0) return code;
    Loader *loader = calloc(1, sizeof *loader);
    if (loader == NULL) return fail_fault(err, "loader: no memory");
    loader->spec = *spec;
    loader->vocab_size = vocab_size;

    glob_t found = {0};
    code = find_shards(&found, pattern, err);
    if (code == 0) code = open_all(loader, found.gl_pathv, found.gl_pathc, tokenizer_sha256, err);
    globfree(&found);
    if (code != 0)
        loader_close(loader);
    else
        *out = loader;
    return code;
}

void loader_close(Loader *loader) {
    if (loader == NULL) return;
    for (int i = 0; i < loader->num_shards; i++) shard_close(&loader->shards[i]);
    free(loader->shards);
    free(loader->first_window);
    free(loader->row);
    free(loader->id_place);
    free(loader);
}

// ---- Fetching

// The last shard that begins at or before the window.
static int shard_of_window(const Loader *loader, uint64_t window) {
    int low = 0, high = loader->num_shards;
    while (high - low > 1) {
        int middle = low + (high - low) / 2;
        if (loader->first_window[middle] <= window)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static int read_window(Loader *loader, uint64_t window, Error *err) {
    int index = shard_of_window(loader, window);
    uint64_t T = (uint64_t)loader->spec.T, first = (window - loader->first_window[index]) * T;
    return shard_read(&loader->shards[index], first, (size_t)T + 1, loader->row, err);
}

static void fill_row(const Loader *loader, int row, Batch *out) {
    int T = loader->spec.T;
    size_t base = (size_t)row * (size_t)T;
    // an id that no token has, when documents are not to be told apart
    int32_t bos = loader->spec.document_mask ? (int32_t)loader->shards[0].bos_id : -1, start = 0;
    for (int t = 0; t < T; t++) {
        int32_t token = loader->row[t], next = loader->row[t + 1];
        if (token == bos) start = t;
        out->tokens[base + (size_t)t] = token;
        out->doc_start[base + (size_t)t] = start;
        out->targets[base + (size_t)t] = next == bos ? -1 : next;
        out->num_targets += next != bos;
    }
}

// Counting sort: ids are counted, the counts become places, and positions go to them in their order.
static void sort_positions(Loader *loader, const int32_t *tokens, int32_t *order) {
    int count = loader->spec.B * loader->spec.T;
    int32_t *place = loader->id_place;
    memset(place, 0, ((size_t)loader->vocab_size + 1) * sizeof *place);
    for (int i = 0; i < count; i++) place[tokens[i] + 1]++;
    for (int id = 0; id < loader->vocab_size; id++) place[id + 1] += place[id];
    for (int i = 0; i < count; i++) order[place[tokens[i]]++] = i;
}

int loader_fetch(Loader *loader, int64_t step, int micro, Batch *out, Error *err) {
    const LoaderSpec *spec = &loader->spec;
    assert(step >= 0 && micro >= 0 && micro < spec->grad_accum);
    uint64_t micros = (uint64_t)step * (uint64_t)spec->grad_accum + (uint64_t)micro;
    uint64_t first_row = (micros * (uint64_t)spec->world + (uint64_t)spec->rank) * (uint64_t)spec->B;
    out->num_targets = out->num_answers = out->num_groups = 0;
    for (int row = 0; row < spec->B; row++) {
        int code = read_window(loader, window_of_sample(loader, first_row + (uint64_t)row), err);
        if (code != 0) return code;
        fill_row(loader, row, out);
    }
    sort_positions(loader, out->tokens, out->order);
    return 0;
}

uint64_t loader_num_windows(const Loader *loader) { return loader->first_window[loader->num_shards]; }

uint64_t loader_num_batches(const Loader *loader) {
    uint64_t windows = loader_num_windows(loader), B = (uint64_t)loader->spec.B;
    return windows / B + (loader->spec.once && windows % B != 0);
}

uint64_t loader_num_rows(const Loader *loader) { return (void)loader, 0; }
uint64_t loader_num_skipped(const Loader *loader) { return (void)loader, 0; }
uint64_t loader_num_answers(const Loader *loader) { return (void)loader, 0; }
double loader_fill(const Loader *loader) { return (void)loader, 1; }
uint64_t loader_num_tokens(const Loader *loader) { return loader->num_tokens; }
int loader_num_shards(const Loader *loader) { return loader->num_shards; }
uint64_t loader_fingerprint(const Loader *loader) { return loader->fingerprint; }
const uint8_t *loader_tokenizer_sha256(const Loader *loader) { return loader->shards[0].tokenizer_sha256; }
uint32_t loader_bos_id(const Loader *loader) { return loader->shards[0].bos_id; }

uint32_t loader_eos_id(const Loader *loader) { return loader->shards[0].eos_id; }
