// cp.async: 16 bytes from global to shared memory in the background. They have arrived, for the thread that asked, when
// cp_async_wait returns; for the others after a barrier that follows it. Source: PTX ISA, "cp.async".
#ifndef LLMC_DEVICE_PTX_CP_ASYNC_H
#define LLMC_DEVICE_PTX_CP_ASYNC_H

#include <cuda_runtime.h>

#include "device/ptx/shared_address.h"

#ifdef LLMC_TARGET_CPU

#include "cpu/async_copy.h"

inline void cp_async_16(void *shared, const void *global, bool valid) { host_copy_async(shared, global, valid); }
inline void cp_async_commit() { host_copy_commit(); }
template <int Pending> inline void cp_async_wait() { host_copy_wait(Pending); }

#else

// Writes zeros, and reads nothing, where not `valid`.
__device__ __forceinline__ void cp_async_16(void *shared, const void *global, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(valid ? 16 : 0)
                 : "memory");
}
// The copies asked for since the last call become a group.
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `Pending` of the groups committed last are under way.
template <int Pending> __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

#endif
#endif
