// What the stand-ins for NVIDIA's libraries share.
//
//   LLMC_STANDIN_TELL=1    a line on stderr says why a stand-in refuses a call
//   LLMC_STANDIN_STRICT=1  what NVIDIA's documentation leaves open is refused, too
#ifndef LLMC_STANDINS_STANDINS_H
#define LLMC_STANDINS_STANDINS_H

#include <stddef.h>

// Whether a kernel may read and write these bytes: they lie in one allocation of cudaMalloc, cudaMallocHost or cudaHostAlloc.
bool standin_on_device(const void *address, size_t bytes);

// Whether the environment has the variable, neither empty nor 0.
bool standin_is_set(const char *name);

bool standin_strict();

// Prints "llmc: LIBRARY refuses: ..." if it is wanted.
void standin_tell(const char *library, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
