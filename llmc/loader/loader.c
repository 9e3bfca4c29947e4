// Opening a set, the order of its samples, and batches of them. How a row of a batch is filled is in windows.c (shards)
// and packs.c (row files).
#include "loader/loader.h"

#include <assert.h>
#include <limits.h>
#include <stdlib.h>

#include "base/match.h"
#include "loader/data_file.h"
#include "loader/overlap.h"
#include "loader/packs.h"
#include "loader/permutation.h"
#include "loader/windows.h"

struct Loader {
    LoaderSpec spec;
    Windows *windows; // of shards, else NULL
    Packs *packs;     // of row files, else NULL
    DataFile *files;
    int num_files;
    uint64_t num_tokens, fingerprint;
    int32_t *scratch; // [vocab_size + 1]
    int vocab_size;
};

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

static int allocate(Loader *loader, size_t num_paths, Error *err) {
    loader->files = calloc(num_paths, sizeof *loader->files);
    loader->scratch = malloc(((size_t)loader->vocab_size + 1) * sizeof *loader->scratch);
    if (!loader->files || !loader->scratch) return fail_fault(err, "loader: no memory for %zu files", num_paths);
    if (loader->spec.kind == LOADER_DOCUMENTS)
        return windows_create(&loader->windows, &loader->spec, loader->vocab_size, num_paths, err);
    return packs_create(&loader->packs, &loader->spec, num_paths, err);
}

static int open_file(Loader *loader, const char *path, const uint8_t *tokenizer_sha256, Error *err) {
    DataFile *file = &loader->files[loader->num_files];
    int code = data_file_check_kind(path, loader->spec.kind, NULL, err);
    if (code) return code;
    code = loader->packs ? packs_add(loader->packs, path, file, err) : windows_add(loader->windows, path, file, err);
    if (code) return code;
    loader->num_files++;
    loader->num_tokens += file->num_tokens;
    return data_file_check(file, &loader->files[0], loader->vocab_size, tokenizer_sha256, err);
}

static int open_all(Loader *loader, char **paths, size_t count, const uint8_t *tokenizer_sha256, Error *err) {
    if (count > INT_MAX) return fail_input(err, "loader: %zu files, expected at most %d", count, INT_MAX);
    int code = allocate(loader, count, err);
    for (size_t i = 0; i < count && !code; i++) code = open_file(loader, paths[i], tokenizer_sha256, err);
    if (!code && loader->packs) code = packs_make(loader->packs, err);
    if (!code) loader->fingerprint = data_file_fingerprint(loader->files, loader->num_files);
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

    FileList found;
    code = file_match(&found, pattern, "shard", err);
    if (code == 0) code = open_all(loader, found.paths, found.count, tokenizer_sha256, err);
    file_list_free(&found);
    if (code != 0)
        loader_close(loader);
    else
        *out = loader;
    return code;
}

void loader_close(Loader *loader) {
    if (loader == NULL) return;
    windows_close(loader->windows);
    packs_close(loader->packs);
    free(loader->files);
    free(loader->scratch);
    free(loader);
}

// ---- Fetching

static uint64_t window_of_sample(const Loader *loader, uint64_t sample) {
    uint64_t windows = loader_num_windows(loader), epoch = sample / windows, position = sample % windows;
    if (!loader->spec.shuffle) return position;
    return permutation_at(position, windows, permutation_key(loader->spec.seed, epoch));
}

static int fill_row(Loader *loader, uint64_t sample, int row, Batch *out, Error *err) {
    if (loader->spec.once && sample >= loader_num_windows(loader)) {
        batch_clear(out, loader->spec.T, row, 0, loader->spec.kind == LOADER_COMPARISONS);
        return 0;
    }
    uint64_t window = window_of_sample(loader, sample);
    return loader->packs ? packs_fill(loader->packs, window, row, out, err)
                         : windows_fill(loader->windows, window, row, out, err);
}

int loader_fetch(Loader *loader, int64_t step, int micro, Batch *out, Error *err) {
    const LoaderSpec *spec = &loader->spec;
    assert(step >= 0 && micro >= 0 && micro < spec->grad_accum);
    uint64_t micros = (uint64_t)step * (uint64_t)spec->grad_accum + (uint64_t)micro;
    uint64_t first_row = (micros * (uint64_t)spec->world + (uint64_t)spec->rank) * (uint64_t)spec->B;
    out->num_targets = out->num_answers = out->num_groups = 0;
    for (int row = 0; row < spec->B; row++) {
        int code = fill_row(loader, first_row + (uint64_t)row, row, out, err);
        if (code != 0) return code;
    }
    batch_sort(out->tokens, out->order, spec->B * spec->T, loader->scratch, loader->vocab_size);
    return 0;
}

uint64_t loader_num_windows(const Loader *loader) {
    return loader->packs ? packs_count(loader->packs) : windows_count(loader->windows);
}

uint64_t loader_num_batches(const Loader *loader) {
    uint64_t windows = loader_num_windows(loader), B = (uint64_t)loader->spec.B;
    return windows / B + (loader->spec.once && windows % B != 0);
}

uint64_t loader_num_tokens(const Loader *loader) { return loader->num_tokens; }
int loader_num_shards(const Loader *loader) { return loader->num_files; }
uint64_t loader_num_rows(const Loader *loader) { return loader->packs ? packs_num_rows(loader->packs) : 0; }
uint64_t loader_num_skipped(const Loader *loader) { return loader->packs ? packs_num_skipped(loader->packs) : 0; }

void loader_describe_skipped(const Loader *loader, char *text, size_t capacity) {
    packs_describe_skipped(loader->packs, text, capacity);
}
uint64_t loader_num_answers(const Loader *loader) { return loader->packs ? packs_num_answers(loader->packs) : 0; }
bool loader_has_token(const Loader *loader, uint32_t id) {
    return loader->packs && packs_have_token(loader->packs, id);
}
double loader_fill(const Loader *loader) { return loader->packs ? packs_share_filled(loader->packs) : 1; }
uint64_t loader_fingerprint(const Loader *loader) { return loader->fingerprint; }

const DataFile *loader_files(const Loader *loader, int *count) {
    *count = loader->num_files;
    return loader->files;
}

int loader_refuse_overlap(const Loader *train, const Loader *val, Error *err) {
    return overlap_refuse(train->files, train->num_files, val->files, val->num_files, err);
}

int loader_count_duplicates(const Loader *loader, const char **first, const char **second) {
    return overlap_count_duplicates(loader->files, loader->num_files, first, second);
}

bool loader_names_tokenizer(const Loader *loader) { return loader->files[0].tokenizer_sha256 != NULL; }
uint32_t loader_vocab_size(const Loader *loader) { return loader->files[0].vocab_size; }
uint32_t loader_bos_id(const Loader *loader) { return loader->files[0].bos_id; }
uint32_t loader_eos_id(const Loader *loader) { return loader->files[0].eos_id; }
