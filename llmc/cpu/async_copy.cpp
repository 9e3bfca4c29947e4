// Where the copies under way are kept: for each thread of the block that a CPU thread runs.
#include "async_copy.h"
#include "cuda_runtime.h"

HostCopies &host_copies() {
    static __thread std::vector<HostCopies> *threads;          // kept until the process ends
    if (!threads) threads = new std::vector<HostCopies>(1024); // as many as a block can have
    return (*threads)[(size_t)host_thread->linear];
}
