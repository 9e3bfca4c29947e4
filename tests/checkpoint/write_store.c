// write_store STORE STEP SEED KEEP_LAST TOKENIZER_FOLDER PARTS AVERAGED [WHOLE_STEP KEEP_EVERY]: writes a checkpoint of a
// model with those initial weights, one part after the other; AVERAGED 1: with a mean over steps too.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/checkpoint.h"

// two writes of the optimizer's file, one of the others
static const LlamaConfig config = {.vocab_size = 700,
                                   .hidden_size = 256,
                                   .intermediate_size = 704,
                                   .num_hidden_layers = 1,
                                   .num_attention_heads = 4,
                                   .num_key_value_heads = 2,
                                   .head_dim = 64,
                                   .max_position_embeddings = 64,
                                   .rms_norm_eps = 1e-5f,
                                   .rope_theta = 10000.0,
                                   .initializer_range = 0.02,
                                   .tie_word_embeddings = true,
                                   .bos_token_id = -1};

static int make_shard(Llama3 **m, CheckpointContent *content, uint64_t seed, Error *err) {
    const RunShape shape = {.B = 1,
                            .T = 8,
                            .micro_batches = 1,
                            .training = true,
                            .parallel = {.shards = content->parts, .shard = content->part},
                            .average = content->average};
    int code = llama3_create(m, &config, &shape, err);
    if (code) return code;
    llama3_init_weights(*m, seed);
    if (content->average) llama3_average(*m, 1);
    content->table = llama3_parameters(*m);
    content->model = *m;
    return 0;
}

// Appends the lines of the next part. *m is its model, whose table the commit still reads.
static int write_part(CheckpointContent *content, Llama3 **m, char **lines, uint64_t seed, Error *err) {
    char *more = NULL;
    llama3_destroy(*m);
    *m = NULL;
    int code = make_shard(m, content, seed, err);
    if (!code && content->part == 0) code = checkpoint_begin(content, err);
    if (!code) code = checkpoint_write_part(content, &more, NULL, err);
    if (!code) *lines = realloc(*lines, strlen(*lines) + strlen(more) + 1);
    if (!code) strcat(*lines, more);
    free(more);
    return code;
}

static int write_parts(CheckpointContent *content, uint64_t seed, Error *err) {
    char *lines = calloc(1, 1);
    Llama3 *m = NULL;
    int code = 0;
    for (content->part = 0; !code && content->part < content->parts; content->part++)
        code = write_part(content, &m, &lines, seed, err);
    if (code)
        checkpoint_abandon(content);
    else
        code = checkpoint_commit(content, lines, NULL, err);
    llama3_destroy(m);
    free(lines);
    return code;
}

static int write_whole(CheckpointContent *content, uint64_t seed, Error *err) {
    Llama3 *m;
    int code = make_shard(&m, content, seed, err);
    if (!code) code = checkpoint_write(content, NULL, err);
    llama3_destroy(m);
    return code;
}

int main(int argc, char **argv) {
    Error err = {0};
    int dropped = -1;
    if (argc != 8 && argc != 10) return 99;
    CheckpointContent content = {.store = argv[1],
                                 .step = atoll(argv[2]),
                                 .config = &config,
                                 .parts = atoi(argv[6]),
                                 .state = "{\"format_version\": 1}",
                                 .tokenizer_folder = argv[5],
                                 .keep_last = atoi(argv[4]),
                                 .average = atoi(argv[7]),
                                 .averaged = atoi(argv[7]),
                                 .whole_step = argc > 8 ? atoll(argv[8]) : 0,
                                 .keep_every = argc > 8 ? atoll(argv[9]) : 0,
                                 .dropped = &dropped};
    const uint64_t seed = strtoull(argv[3], NULL, 10);
    int code = content.parts == 1 ? write_whole(&content, seed, &err) : write_parts(&content, seed, &err);
    if (code) fprintf(stderr, "write_store: %s\n", err.message);
    printf("%d dropped\n", dropped);
    return code;
}
