// Accesses of several elements at once, which a GPU refuses at addresses that are no multiples of their size and a CPU does
// not.
#ifndef LLMC_CPU_ALIGNMENT_H
#define LLMC_CPU_ALIGNMENT_H

#include <stddef.h>
#include <stdint.h>

// Prints a line with kernel, block and thread, in a build with sanitizers also the stack, and ends the program with code 1.
[[noreturn]] void host_report_misaligned(const void *address, size_t bytes, const char *access);

// access: what is done there, for the report. Called by kernels only.
inline __attribute__((always_inline)) void host_check_aligned(const void *address, size_t bytes, const char *access) {
    if (__builtin_expect((uintptr_t)address % bytes != 0, 0)) host_report_misaligned(address, bytes, access);
}

// For accesses in the innermost loops: in builds with sanitizers only, as it costs kernels without barriers up to a third.
inline __attribute__((always_inline)) void host_check_access(const void *address, size_t bytes) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    host_check_aligned(address, bytes, "reads or writes");
#else
    (void)address, (void)bytes;
#endif
}

#endif
