// A planted bug is a kernel with `template <bool BUG>`: as it should be, or with the bug. A program holds the bugs of one
// kind:
//
//   PROGRAM NAME bug|fixed       runs the kernel called NAME, prints its output, a number a line
//
// The line at fault ends in `// BUG name`, so that tests/cpu/test_planted_bugs.py can ask whether a report names it.
#ifndef LLMC_PLANTED_H
#define LLMC_PLANTED_H

#include "device/device.h"
#include "device/launch.h"
#include "device/reduce.h"

#include <stdio.h>
#include <string.h>

template <typename T>
static T *device_array(size_t count) {
    void *pointer;
    cuda_check(cudaMalloc(&pointer, count * sizeof(T)));
    return (T *)pointer;
}

// Inputs in (-1, 1) that differ from each other.
static inline void fill(float *x, size_t count) {
    for (size_t i = 0; i < count; i++) x[i] = (float)((i * 7919 + 13) % 1009) / 505.0f - 0.999f;
}

template <typename T>
static void print_values(const T *values, size_t count) {
    for (size_t i = 0; i < count; i++) printf("%.9g\n", (double)values[i]);
}

struct Planted {
    const char *name;
    void (*with_bug)();
    void (*fixed)();
};

// A table {"name", run<true>, run<false>}, ... is the program's main.
static inline int planted_main(int argc, char **argv, const Planted *table, size_t count) {
    for (size_t i = 0; argc == 3 && i < count; i++) {
        if (strcmp(table[i].name, argv[1]) != 0) continue;
        (strcmp(argv[2], "bug") == 0 ? table[i].with_bug : table[i].fixed)();
        return 0;
    }
    fprintf(stderr, "usage: %s NAME bug|fixed\n", argv[0]);
    return 2;
}

#define PLANTED_MAIN(...)                                                                                            \
    int main(int argc, char **argv) {                                                                                \
        const Planted table[] = {__VA_ARGS__};                                                                       \
        return planted_main(argc, argv, table, sizeof table / sizeof *table);                                        \
    }

#endif
