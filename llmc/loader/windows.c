#include "loader/windows.h"

#include <stdlib.h>

struct Windows {
    int T, vocab_size; // vocab_size: the model's
    bool document_mask;
    Shard *shards;
    int num_shards;
    uint64_t *first_window; // [num_shards + 1]: windows in the shards before; the last is the total
    int32_t *tokens;        // [T + 1]
};

int windows_create(Windows **out, const LoaderSpec *spec, int vocab_size, size_t max_files, Error *err) {
    Windows *w = calloc(1, sizeof *w);
    if (!w) return fail_fault(err, "loader: no memory");
    w->T = spec->T;
    w->vocab_size = vocab_size;
    w->document_mask = spec->document_mask;
    w->shards = calloc(max_files, sizeof *w->shards);
    w->first_window = calloc(max_files + 1, sizeof *w->first_window);
    w->tokens = malloc(((size_t)w->T + 1) * sizeof *w->tokens);
    *out = w; // closed by the caller, whatever it has
    bool all = w->shards && w->first_window && w->tokens;
    return all ? 0 : fail_fault(err, "loader: no memory for %zu shards", max_files);
}

static int check_shard(const Windows *w, const Shard *shard, Error *err) {
    if (w->document_mask && shard->bos_id == SHARD_NO_ID)
        return fail_input(err, "%s: no begin-of-document id, expected one for the document mask (--document-mask off)",
                          shard->path);
    if (shard->token_count < (uint64_t)w->T + 1)
        return fail_input(err, "%s: %llu tokens, expected at least %lld for one window (--seq-len + 1)", shard->path,
                          (unsigned long long)shard->token_count, (long long)w->T + 1);
    return 0;
}

int windows_open_shard(Shard *shard, const char *path, int vocab_size, DataFile *file, Error *err) {
    int code = shard_open(shard, path, err);
    if (code) return code;
    code = shard_fit(shard, (uint32_t)vocab_size, err);
    *file = (DataFile){.path = shard->path,
                       .kind = LOADER_DOCUMENTS,
                       .token_bits = shard->token_bits,
                       .vocab_size = shard->vocab_size,
                       .bos_id = shard->bos_id,
                       .eos_id = shard->eos_id,
                       .num_tokens = shard->token_count,
                       .tokenizer_sha256 = shard->llmc ? NULL : shard->tokenizer_sha256};
    if (code) shard_close(shard);
    return code;
}

int windows_add(Windows *w, const char *path, DataFile *file, Error *err) {
    const int index = w->num_shards;
    Shard *shard = &w->shards[index];
    int code = windows_open_shard(shard, path, w->vocab_size, file, err);
    if (code) return code;
    w->num_shards++;
    code = check_shard(w, shard, err);
    if (code) return code;
    w->first_window[index + 1] = w->first_window[index] + (shard->token_count - 1) / (uint64_t)w->T;
    return 0;
}

uint64_t windows_count(const Windows *w) { return w->first_window[w->num_shards]; }

// The last shard that begins at or before the window.
static int shard_of_window(const Windows *w, uint64_t window) {
    int low = 0, high = w->num_shards;
    while (high - low > 1) {
        int middle = low + (high - low) / 2;
        if (w->first_window[middle] <= window)
            low = middle;
        else
            high = middle;
    }
    return low;
}

int windows_read(const Shard *shard, const WindowRow *to, uint64_t first, Batch *out, Error *err) {
    const int T = to->T;
    int code = shard_read(shard, first, (size_t)T + 1, to->scratch, err);
    if (code) return code;
    size_t base = (size_t)to->row * (size_t)T;
    // an id that no token has, when documents are not to be told apart
    int32_t bos = to->document_mask ? (int32_t)shard->bos_id : -1, start = 0;
    for (int t = 0; t < T; t++) {
        int32_t token = to->scratch[t], next = to->scratch[t + 1];
        if (token == bos) start = t;
        out->tokens[base + (size_t)t] = token;
        out->doc_start[base + (size_t)t] = start;
        out->targets[base + (size_t)t] = next == bos ? -1 : next;
        out->num_targets += next != bos;
    }
    return 0;
}

int windows_fill(Windows *w, uint64_t window, int row, Batch *out, Error *err) {
    int index = shard_of_window(w, window);
    uint64_t first = (window - w->first_window[index]) * (uint64_t)w->T;
    const WindowRow to = {.scratch = w->tokens, .row = row, .T = w->T, .document_mask = w->document_mask};
    return windows_read(&w->shards[index], &to, first, out, err);
}

void windows_close(Windows *w) {
    if (!w) return;
    for (int i = 0; i < w->num_shards; i++) shard_close(&w->shards[i]);
    free(w->shards);
    free(w->first_window);
    free(w->tokens);
    free(w);
}
