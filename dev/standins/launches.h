#ifndef LLMC_STANDINS_LAUNCHES_H
#define LLMC_STANDINS_LAUNCHES_H

#include <cuda_runtime.h>

// Is called in place of each kernel that is launched; `arguments` points to the values that the kernel would get.
extern void (*standin_on_launch)(const cudaLaunchConfig_t *config, const void *kernel, void **arguments);

#endif
