// Flags in global memory by which blocks of a launch tell each other that something has been written. Who reads a flag and then
// passes flag_fence sees what the thread that stored it, or one that this had met at a barrier, wrote before its flag_fence.
// Source: PTX ISA, "Memory Consistency Model".
#ifndef LLMC_DEVICE_PTX_FENCE_H
#define LLMC_DEVICE_PTX_FENCE_H

#include <cuda_runtime.h>

#ifdef LLMC_TARGET_CPU

#include <sched.h>

// The accesses themselves order, as ThreadSanitizer knows no fences.
inline int load_flag(const int *flag) { return __atomic_load_n(flag, __ATOMIC_ACQUIRE); }
inline void store_flag(int *flag, int value) { __atomic_store_n(flag, value, __ATOMIC_RELEASE); }
inline void flag_fence() {}
// Between two looks at a flag that counts up to `awaited`: another thread may need this core to store it.
inline void wait_for_flag(int looks, int found, int awaited) {
    if ((unsigned)found > (unsigned)awaited) host_report("waits for a number that a flag has passed");
    if (looks >= 100) sched_yield();
}

#else

__device__ __forceinline__ int load_flag(const int *flag) {
    int value;
    asm volatile("ld.relaxed.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
    return value;
}
__device__ __forceinline__ void store_flag(int *flag, int value) {
    asm volatile("st.relaxed.gpu.global.s32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}
__device__ __forceinline__ void flag_fence() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }
__device__ __forceinline__ void wait_for_flag(int, int, int) {}

#endif
#endif
