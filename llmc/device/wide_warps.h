// Whether a warp works on more rows at once than a GPU's registers could hold.
#ifndef LLMC_DEVICE_WIDE_WARPS_H
#define LLMC_DEVICE_WIDE_WARPS_H

#include <cuda_runtime.h>

// It does so on the CPU, where fragments lie in memory and each step of a lane has its fixed cost. Not while a seed shuffles
// the order of threads, nor under ThreadSanitizer: then blocks are as on a GPU, so that what is checked is the exchange
// between their warps. The results have the same bits.
#ifdef LLMC_TARGET_CPU
constexpr bool HAS_WIDE_WARPS = true;
#ifdef __SANITIZE_THREAD__
inline bool wide_warps() { return false; }
#else
inline bool wide_warps() { return host_seed() == 0; }
#endif
#else
constexpr bool HAS_WIDE_WARPS = false;
inline bool wide_warps() { return false; }
#endif

#endif
