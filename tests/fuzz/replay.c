// Runs a target once on each file named on the command line: seeds and kept crashes, without libFuzzer.
#include <stdio.h>
#include <stdlib.h>

#include "common.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size) {
    (void)data, (void)max_size;
    return size;
}

static int run(const char *path) {
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) {
        perror(path);
        return 1;
    }
    size_t size = (size_t)ftell(file);
    rewind(file);
    uint8_t *data = malloc(size + (size == 0)); // exactly the input's bytes, so that reading on is seen
    int failed = data == NULL || fread(data, 1, size, file) != size;
    fclose(file);
    if (!failed) {
        printf("%s\n", path);
        fflush(stdout);
        LLVMFuzzerTestOneInput(data, size);
    }
    free(data);
    return failed;
}

int main(int count, char **paths) {
    int failed = 0;
    for (int i = 1; i < count; i++) failed |= run(paths[i]);
    return failed;
}
