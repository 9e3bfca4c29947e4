// What was launched: for each kernel the largest block, and the most dynamic shared memory, since the record was begun. Tests
// compare it with the registers and the shared memory that nvcc's report gives the kernel.
#ifndef LLMC_CPU_LAUNCH_RECORD_H
#define LLMC_CPU_LAUNCH_RECORD_H

#include <stddef.h>

// begin: forgets what was recorded, and records from now on. end: one line a kernel, "threads<TAB>bytes<TAB>name"; valid until
// the next call. Only while nothing is launched.
extern "C" void host_launches_begin(void);
extern "C" const char *host_launches_end(void);

void host_record_launch(const char *name, long threads, size_t dynamic_shared);

// name, as in "... [with auto Kernel = {anonymous}::name]", without the namespace; kept for ever.
const char *host_kernel_in(const char *function);

// With the template arguments' values, where the source of a launch has their names: forward_kernel<true, 1, 4>.
template <auto Kernel> const char *host_kernel_name() {
    static const char *const name = host_kernel_in(__PRETTY_FUNCTION__);
    return name;
}

#endif
