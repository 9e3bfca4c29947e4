// A token shard: the header, every token, and batches of it through the loader.
#include <stdlib.h>
#include <string.h>

#include "common.h"
#include "loader/loader.h"
#include "loader/shard.h"

enum { ROWS = 2, LENGTH = 3, MAX_TOKENS = 4096, MODEL_VOCAB = 4096 };

static int read_tokens(const Shard *shard) {
    Error err = {0};
    size_t count = (size_t)shard->token_count;
    fuzz_demand(count <= MAX_TOKENS, "a shard has no more tokens than its file has bytes");
    int32_t *tokens = malloc(count * sizeof *tokens + 1);
    int code = tokens == NULL ? 1 : shard_read(shard, 0, count, tokens, &err);
    fuzz_demand_code(code, err.code, err.message);
    for (size_t i = 0; code == 0 && i < count; i++)
        fuzz_demand((uint32_t)tokens[i] < shard->vocab_size, "every id is in the vocabulary");
    free(tokens);
    return code;
}

static void read_batches(const char *path, bool document_mask) {
    Error err = {0};
    LoaderSpec spec = {.B = ROWS,
                       .T = LENGTH,
                       .grad_accum = 1,
                       .world = 1,
                       .seed = 7,
                       .document_mask = document_mask,
                       .shuffle = true};
    int32_t arrays[4][ROWS * LENGTH];
    Batch batch = {.tokens = arrays[0], .targets = arrays[1], .doc_start = arrays[2], .order = arrays[3]};
    Loader *loader = NULL;
    int code = loader_open(&loader, path, &spec, MODEL_VOCAB, NULL, &err);
    fuzz_demand_code(code, err.code, err.message);
    for (int step = 0; code == 0 && step < 3; step++) {
        code = loader_fetch(loader, step, 0, &batch, &err);
        fuzz_demand_code(code, err.code, err.message);
        for (int i = 0; code == 0 && i < ROWS * LENGTH; i++) {
            fuzz_demand(batch.tokens[i] >= 0 && batch.tokens[i] < MODEL_VOCAB, "inputs are in the vocabulary");
            fuzz_demand(batch.targets[i] >= -1 && batch.targets[i] < MODEL_VOCAB, "targets are in the vocabulary");
            fuzz_demand(batch.doc_start[i] >= 0 && batch.doc_start[i] <= i % LENGTH, "documents begin in the row");
            fuzz_demand(batch.order[i] >= 0 && batch.order[i] < ROWS * LENGTH, "the order is one of the row");
        }
    }
    loader_close(loader);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size > MAX_TOKENS) return 0;
    Error err = {0};
    Shard shard;
    const char *path = fuzz_file(data, size);
    int code = shard_open(&shard, path, &err);
    fuzz_demand_code(code, err.code, err.message);
    if (code != 0) return 0;
    read_tokens(&shard);
    shard_close(&shard);
    read_batches(path, true);
    read_batches(path, false);
    return 0;
}

static size_t count_llmc(uint8_t *data, size_t size, unsigned *random) {
    const size_t header = 1024, width = data[0] == 0xa1 ? 4 : 2;
    if (size < header || fuzz_random(random, 4) == 0) return size;
    const size_t count = (size - header) / width;
    for (int i = 0; i < 4; i++) data[8 + i] = (uint8_t)(count >> 8 * i);
    return header + count * width;
}

// The count of tokens follows the file's size most of the time, without which nothing behind the header is reached.
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    unsigned random = seed;
    size = LLVMFuzzerMutate(data, size, max_size);
    if (shard_is_llmc(data, size)) return count_llmc(data, size, &random);
    if (size < SHARD_HEADER_BYTES || fuzz_random(&random, 4) == 0) return size;
    size_t width = data[16] == 32 ? 4 : 2, count = (size - SHARD_HEADER_BYTES) / width;
    for (int i = 0; i < 8; i++) data[24 + i] = (uint8_t)(count >> 8 * i);
    if (fuzz_random(&random, 4) != 0) memset(data + 72, 0, SHARD_HEADER_BYTES - 72);
    return SHARD_HEADER_BYTES + count * width;
}
