<<<<<<< HEAD
// Whether a warp works on more rows at once than a GPU's registers could hold, and one thread does what a group of threads does
// on a GPU that has a row: then the sum over the row needs nobody else.
=======
// Whether a warp works on more at once than a GPU's lanes could hold.
>>>>>>> b873297 (attention: on the CPU a warp is one thread that holds its matrices whole: products by vector code, dQ summed beside dK and dV; the same bits as its lanes)
#ifndef LLMC_DEVICE_WIDE_WARPS_H
#define LLMC_DEVICE_WIDE_WARPS_H

#include <cuda_runtime.h>

<<<<<<< HEAD
// It is so on the CPU, where fragments lie in memory, each step of a lane has its fixed cost, and a loop of one thread becomes
// vector instructions. Not while a seed shuffles the order of threads, nor under ThreadSanitizer: then blocks are as on a GPU,
// so that what is checked is the exchange between their threads. A row that one thread sums is added in another order; else
// the results have the same bits.
#ifdef LLMC_TARGET_CPU
=======
struct WholeWarp; // device/whole_warp.h

// It does so on the CPU, where lanes are fibers, whose every step has its cost. Not while a seed shuffles the order of
// threads, nor under ThreadSanitizer: then blocks are as on a GPU, so that what is checked is the exchange between their
// lanes and warps; nor with LLMC_HOST_LANES=1, for whoever wants to look at them. The results have the same bits.
#if defined(LLMC_TARGET_CPU) && !defined(__SANITIZE_THREAD__)
>>>>>>> b873297 (attention: on the CPU a warp is one thread that holds its matrices whole: products by vector code, dQ summed beside dK and dV; the same bits as its lanes)
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
