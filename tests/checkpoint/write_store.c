// write_store STORE STEP SEED KEEP_LAST TOKENIZER_FOLDER: writes a checkpoint of a model with those initial weights.
#include <stdio.h>
#include <stdlib.h>

#include "checkpoint/checkpoint.h"

static int write_model(char **argv, Error *err) {
    // two writes of the optimizer's file, one of the others
    const LlamaConfig config = {.vocab_size = 700,
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
    const RunShape shape = {.B = 1, .T = 8, .micro_batches = 1, .training = true};
    Llama3 *m;
    int code = llama3_create(&m, &config, &shape, err);
    if (code) return code;
    llama3_init_weights(m, strtoull(argv[3], NULL, 10));
    CheckpointContent content = {.store = argv[1],
                                 .step = atoll(argv[2]),
                                 .config = &config,
                                 .table = llama3_parameters(m),
                                 .model = m,
                                 .state = "{\"format_version\": 1}",
                                 .tokenizer_folder = argv[5],
                                 .keep_last = atoi(argv[4])};
    code = checkpoint_write(&content, NULL, err);
    llama3_destroy(m);
    return code;
}

int main(int argc, char **argv) {
    Error err = {0};
    if (argc != 6) return 99;
    int code = write_model(argv, &err);
    if (code) fprintf(stderr, "write_store: %s\n", err.message);
    return code;
}
