// Whether one thread does what a warp, or a group of threads that has a row, does on a GPU: then products of a warp and sums over
// a row need nobody else.
#ifndef LLMC_DEVICE_WIDE_WARPS_H
#define LLMC_DEVICE_WIDE_WARPS_H

#include <cuda_runtime.h>

struct WholeWarp; // device/whole_warp.h

// It is so on the CPU, where lanes are fibers, each step of a lane has its fixed cost, and a loop of one thread becomes vector
// instructions. Not while a seed shuffles the order of threads, nor under ThreadSanitizer: then blocks are as on a GPU, so that
// what is checked is the exchange between their threads; nor with LLMC_HOST_LANES=1, for whoever wants to look at them. A row
// that one thread sums is added in another order, and so are attention's dK and dV; else the results have the same bits.
#if defined(LLMC_TARGET_CPU) && !defined(__SANITIZE_THREAD__)
constexpr bool HAS_WIDE_WARPS = true;
inline bool wide_warps() { return host_seed() == 0 && !host_lanes(); }
// Whether so many blocks keep all cores at work.
inline bool fill_cores(long blocks) { return blocks >= 2L * host_threads() || host_threads() == 1; }
#else
constexpr bool HAS_WIDE_WARPS = false;
inline bool wide_warps() { return false; }
inline bool fill_cores(long) { return false; }
#endif

#endif
