// average_memory OUTPUT CHECKPOINT...: averages models and prints by how much that raised the process's peak of resident
// memory, in bytes, and the size of what was read.
#include <stdio.h>

#include "tools/average.h"
#include "peak.h"

int main(int argc, char **argv) {
    Error err = {0};
    Average *a = NULL;
    if (argc < 3) return 99;
    const AverageSpec spec = {.inputs = (const char *const *)argv + 2, .count = argc - 2, .output = argv[1]};
    const long long before = peak();
    int code = average_open(&a, &spec, &err);
    if (!code) code = average_write(a, NULL, NULL, &err);
    if (!code) printf("%lld %lld\n", peak() - before, (long long)average_read_bytes(a));
    if (code) fprintf(stderr, "average_memory: %s\n", err.message);
    average_close(a);
    return code;
}
