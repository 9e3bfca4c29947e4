// A row file: the header, every row, and batches of it through the loader.
#include <stdlib.h>
#include <string.h>

#include "common.h"
#include "loader/loader.h"
#include "loader/rows.h"

enum { ROWS = 2, LENGTH = 12, POSITIONS = ROWS * LENGTH, MAX_BYTES = 4096, MODEL_VOCAB = 4096 };

static void read_rows(const RowFile *file) {
    Error err = {0};
    uint64_t total = 0;
    fuzz_demand(file->num_tokens <= MAX_BYTES && file->num_rows <= MAX_BYTES, "a file has no more than its bytes");
    for (uint64_t i = 0; i < file->num_rows; i++) {
        const uint64_t count = row_tokens(&file->rows[i]);
        const int answers = row_num_answers(&file->rows[i]);
        fuzz_demand(file->rows[i].first == total && count >= 2 && count <= file->num_tokens - total,
                    "rows follow each other in the file");
        fuzz_demand(file->kind == ROWS_CONVERSATIONS ? answers == 0 : answers >= 2, "a row has its kind's answers");
        total += count;
        uint32_t *tokens = malloc(count * sizeof *tokens); // exactly as many, so that writing on is seen
        int code = tokens == NULL ? 1 : rows_read(file, i, tokens, &err);
        fuzz_demand_code(code, err.code, err.message);
        for (uint64_t t = 0; code == 0 && t < count; t++)
            fuzz_demand((tokens[t] & ROWS_ID) < file->vocab_size, "every id is in the vocabulary");
        free(tokens);
    }
    fuzz_demand(total == file->num_tokens, "rows are all of the file");
}

static void check_answers(const Batch *batch, uint64_t all_answers) {
    int answers = 0;
    for (int i = 0; i < batch->num_groups; i++) {
        fuzz_demand(batch->groups[i].first == answers, "groups follow each other");
        fuzz_demand(batch->groups[i].count == 2 || batch->groups[i].count == 3, "a group has two or three answers");
        answers += batch->groups[i].count;
    }
    fuzz_demand(answers == batch->num_answers && answers <= POSITIONS / 2, "every answer is of a group");
    for (int i = 0; i < answers; i++) {
        const AnswerSpan span = batch->answers[i];
        fuzz_demand(span.first >= 0 && span.first < span.last && span.last < POSITIONS, "an answer lies in the batch");
        fuzz_demand(span.first / LENGTH == span.last / LENGTH, "an answer lies in one row");
        fuzz_demand(batch->answer_numbers[i] >= 0 && (uint64_t)batch->answer_numbers[i] < all_answers,
                    "an answer's number is one of the set");
    }
}

static void check_positions(const Batch *batch, bool comparisons) {
    int targets = 0;
    for (int i = 0; i < POSITIONS; i++) {
        const int t = i % LENGTH;
        fuzz_demand(batch->tokens[i] >= 0 && batch->tokens[i] < MODEL_VOCAB, "inputs are in the vocabulary");
        fuzz_demand(batch->targets[i] >= -1 && batch->targets[i] < MODEL_VOCAB, "targets are in the vocabulary");
        fuzz_demand(batch->doc_start[i] >= 0 && batch->doc_start[i] <= t, "rows begin in the pack");
        fuzz_demand(batch->order[i] >= 0 && batch->order[i] < POSITIONS, "the order is one of the batch");
        targets += batch->targets[i] != -1;
        if (!comparisons) continue;
        const int begin = batch->excluded[2 * i], end = batch->excluded[2 * i + 1];
        fuzz_demand(begin == end || (batch->doc_start[i] <= begin && begin < end && end <= t),
                    "what is excluded lies before");
    }
    if (!comparisons) fuzz_demand(targets == batch->num_targets, "targets are counted");
}

static void read_batches(const char *path, LoaderKind kind) {
    Error err = {0};
    const bool comparisons = kind == LOADER_COMPARISONS;
    LoaderSpec spec = {.B = ROWS, .T = LENGTH, .grad_accum = 1, .world = 1, .seed = 7, .shuffle = true};
    spec.kind = kind;
    spec.skip_long = spec.shuffle_answers = true;
    int32_t arrays[4][POSITIONS], excluded[2 * POSITIONS];
    AnswerSpan answers[POSITIONS / 2];
    AnswerGroup groups[POSITIONS / 2];
    int64_t numbers[POSITIONS / 2];
    Batch batch = {.tokens = arrays[0], .targets = arrays[1], .doc_start = arrays[2], .order = arrays[3]};
    if (comparisons) {
        batch.excluded = excluded;
        batch.answers = answers;
        batch.groups = groups;
        batch.answer_numbers = numbers;
    }
    Loader *loader = NULL;
    int code = loader_open(&loader, path, &spec, MODEL_VOCAB, NULL, &err);
    fuzz_demand_code(code, err.code, err.message);
    for (int step = 0; code == 0 && step < 3; step++) {
        code = loader_fetch(loader, step, 0, &batch, &err);
        fuzz_demand_code(code, err.code, err.message);
        if (code != 0) break;
        check_positions(&batch, comparisons);
        check_answers(&batch, loader_num_answers(loader));
    }
    loader_close(loader);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size > MAX_BYTES) return 0;
    Error err = {0};
    RowFile file;
    const char *path = fuzz_file(data, size);
    int code = rows_open(&file, path, &err);
    fuzz_demand_code(code, err.code, err.message);
    if (code != 0) return 0;
    const LoaderKind kind = file.kind == ROWS_CONVERSATIONS ? LOADER_CONVERSATIONS : LOADER_COMPARISONS;
    read_rows(&file);
    rows_close(&file);
    read_batches(path, kind);
    return 0;
}

static void store(uint8_t *at, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) at[i] = (uint8_t)(value >> 8 * i);
}

// Most of the time the count of tokens follows the file's size, the rows' first tokens their lengths, and the last row
// takes what is left, without which nothing behind the table is reached.
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    unsigned random = seed;
    size = LLVMFuzzerMutate(data, size, max_size);
    if (size < ROWS_HEADER_BYTES || fuzz_random(&random, 4) == 0) return size;
    const size_t body = size - ROWS_HEADER_BYTES, rows = data[72];
    if (rows == 0 || rows * ROWS_ENTRY_BYTES > body) return size;
    const size_t tokens = (body - rows * ROWS_ENTRY_BYTES) / 4;
    store(data + 24, tokens, 8);
    store(data + 72, rows, 8);
    memset(data + 80, 0, ROWS_HEADER_BYTES - 80);
    uint64_t next = 0;
    uint8_t *entry = data + ROWS_HEADER_BYTES + tokens * 4;
    for (size_t i = 0; i < rows; i++, entry += ROWS_ENTRY_BYTES) {
        store(entry, next, 8);
        for (int part = 0; part < 4; part++) {
            memset(entry + 9 + 4 * part, 0, 3); // lengths below 256
            next += entry[8 + 4 * part];
        }
        const uint64_t room = 255 - entry[8];
        if (i + 1 == rows && next < tokens && tokens - next <= room) entry[8] += (uint8_t)(tokens - next);
    }
    return ROWS_HEADER_BYTES + tokens * 4 + rows * ROWS_ENTRY_BYTES;
}
