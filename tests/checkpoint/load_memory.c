// load_memory FOLDER TRAINING: loads a checkpoint and prints by how much that raised the process's peak of resident
// memory, in bytes, and the size of what was read.
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "checkpoint/checkpoint.h"
#include "peak.h"

static long long file_size(const char *folder, const char *name) {
    char path[4096];
    struct stat status;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return stat(path, &status) == 0 ? (long long)status.st_size : 0;
}

static int measure(const char *folder, bool training, Error *err) {
    char path[4096];
    LlamaConfig config;
    Llama3 *m;
    const RunShape shape = {.B = 1, .T = 8, .micro_batches = 1, .training = training};
    snprintf(path, sizeof path, "%s/config.json", folder);
    int code = llama_config_read(&config, path, err);
    if (!code) code = llama3_create(&m, &config, &shape, err);
    if (code) return code;
    llama3_init_weights(m, 1); // the model's memory is all there
    long long before = peak(), size = file_size(folder, "model.safetensors");
    if (training) size += file_size(folder, "trainer/optimizer.safetensors");
    code = (training ? checkpoint_read_training : checkpoint_read_weights)(folder, m, err);
    printf("%lld %lld\n", peak() - before, size);
    llama3_destroy(m);
    return code;
}

int main(int argc, char **argv) {
    Error err = {0};
    if (argc != 3) return 99;
    int code = measure(argv[1], atoi(argv[2]), &err);
    if (code) fprintf(stderr, "load_memory: %s\n", err.message);
    return code;
}
