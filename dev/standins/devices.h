// What the files of the CUDA runtime's stand-in share.
#ifndef LLMC_STANDINS_DEVICES_H
#define LLMC_STANDINS_DEVICES_H

#include <cuda_runtime.h>

// Returns the error, after keeping it for this thread's cudaGetLastError.
cudaError_t standin_keep_error(cudaError_t error);

#endif
