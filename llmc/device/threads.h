// How many threads the cpu target computes with.
#ifndef LLMC_DEVICE_THREADS_H
#define LLMC_DEVICE_THREADS_H

#include "base/error.h"

// threads: how many; 0: OMP_NUM_THREADS, or one for each processor, of which `processes` on this machine have equal shares.
// Errors: 2 (less than 0; more on the cuda target, which computes on the GPU).
int threads_set(int threads, int processes, Error *err);

int threads_used(void); // 1 on the cuda target

#endif
