// Whether a warp works on more rows at once than a GPU's registers could hold, and one thread does what a group of threads does
// on a GPU that has a row: then the sum over the row needs nobody else.
#ifndef LLMC_DEVICE_WIDE_WARPS_H
#define LLMC_DEVICE_WIDE_WARPS_H

#include <cuda_runtime.h>

// It is so on the CPU, where fragments lie in memory, each step of a lane has its fixed cost, and a loop of one thread becomes
// vector instructions. Not while a seed shuffles the order of threads, nor under ThreadSanitizer: then blocks are as on a GPU,
// so that what is checked is the exchange between their threads. A row that one thread sums is added in another order; else
// the results have the same bits.
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
