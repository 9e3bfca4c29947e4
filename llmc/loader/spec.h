// The specification of a loader: which batches it makes.
#ifndef LLMC_LOADER_SPEC_H
#define LLMC_LOADER_SPEC_H

#include <stdbool.h>
#include <stdint.h>

typedef enum { LOADER_DOCUMENTS, LOADER_CONVERSATIONS, LOADER_COMPARISONS } LoaderKind; // shards; row files of a kind

typedef struct {
    int B, T;       // rows of a micro-batch on one rank, tokens of a row
    int grad_accum; // micro-batches of a step
    int rank, world;
    uint64_t seed;
    bool document_mask; // of documents: attention stays inside them, which begin at the shards' BOS token
    bool shuffle;       // false: windows in the order of the files, packs in that of their making, every epoch
    // One epoch only: samples after it are empty, so that loader_num_batches micro-batches have each window once.
    bool once;
    LoaderKind kind;      // what the files must be
    bool shuffle_answers; // a comparison's answers stand in an order drawn from the seed and the row's number
    bool skip_long;       // rows longer than T are left out and counted, not refused
} LoaderSpec;

enum { LOADER_SKIPPED_SIZE = 4608 }; // room for a path and what is said of a row of it that is too long

#endif
