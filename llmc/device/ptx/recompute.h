// A value that the compiler takes for a new one.
#ifndef LLMC_DEVICE_PTX_RECOMPUTE_H
#define LLMC_DEVICE_PTX_RECOMPUTE_H

#include <cuda_runtime.h>

// x. What is computed from it in a loop is computed there, not once before it, to stand in registers all the time.
__device__ __forceinline__ int recompute(int x) {
#ifndef LLMC_TARGET_CPU
    asm volatile("" : "+r"(x));
#endif
    return x;
}

#endif
