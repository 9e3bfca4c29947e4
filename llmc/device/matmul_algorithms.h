// A file of cuBLASLt's algorithms that were timed, so that each shape is timed once: for a GPU's name, the library's version
// and a product, the 64 bytes of cublasLtMatmulAlgo_t, which NVIDIA lets be kept for the same version of the library.
//
// One line a product after a first line with the format's name: a checksum of the rest, version, m, n, k, flags, the
// algorithm in hexadecimal, the GPU's name.
#ifndef LLMC_DEVICE_MATMUL_ALGORITHMS_H
#define LLMC_DEVICE_MATMUL_ALGORITHMS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { ALGORITHM_BYTES = 64 };

typedef struct {
    char device[256]; // the GPU's name
    size_t version;   // the library's
    int m, n, k, flags;
} AlgorithmKey;

// Reads the file; algorithms_keep adds to it. adds: where it is missing or damaged it is made anew, after one line about
// the damage; else nothing is added, and these are errors (2). Another file may be opened later in its place.
int algorithms_open(const char *path, bool adds, Error *err);

// Whether algorithms_open has succeeded, and with `adds`.
bool algorithms_are_kept(void);
bool algorithms_can_be_added(void);

// *algorithm = [ALGORITHM_BYTES], the kept one; false: there is none.
bool algorithms_find(const AlgorithmKey *key, void *algorithm);

// Adds it, or puts it in the place of the one that was kept, and writes the file, which appears whole. If that fails, one line
// says so and the program goes on.
void algorithms_keep(const AlgorithmKey *key, const void *algorithm);

#ifdef __cplusplus
}
#endif
#endif
