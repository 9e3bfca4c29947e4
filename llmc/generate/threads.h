// How many threads the cpu target computes with.
#ifndef LLMC_GENERATE_THREADS_H
#define LLMC_GENERATE_THREADS_H

#include "base/error.h"

// 0: all. Errors: 2 (less than 0; more on the cuda target, which computes on the GPU).
int threads_set(int threads, Error *err);

#endif
