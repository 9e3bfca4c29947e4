// Runs a target once on each file named on the command line: seeds and kept crashes, without libFuzzer. With
// --mutate SEED it runs the target's mutator instead, on a thousand beginnings of each file.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size) {
    (void)data, (void)max_size;
    return size;
}

// The mutator gets a buffer with no room behind its bytes, or with some: writing and reading on are seen.
static int mutate(const uint8_t *data, size_t size, unsigned seed) {
    for (int i = 0; i < 1000; i++) {
        size_t kept = size == 0 ? 0 : 1 + fuzz_random(&seed, (unsigned)size);
        size_t room = kept + fuzz_random(&seed, 2) * fuzz_random(&seed, 64);
        uint8_t *text = malloc(room + (room == 0));
        if (text == NULL) return 1;
        memcpy(text, data, kept);
        fuzz_demand(LLVMFuzzerCustomMutator(text, kept, room, fuzz_random(&seed, 1 << 24)) <= room, "it fits");
        free(text);
    }
    return 0;
}

static int run(const char *path, const char *seed) {
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
        if (seed == NULL) LLVMFuzzerTestOneInput(data, size);
        else failed = mutate(data, size, (unsigned)strtoul(seed, NULL, 10));
    }
    free(data);
    return failed;
}

int main(int count, char **words) {
    int first = count > 2 && strcmp(words[1], "--mutate") == 0 ? 3 : 1, failed = 0;
    for (int i = first; i < count; i++) failed |= run(words[i], first == 3 ? words[2] : NULL);
    return failed;
}
