#include "device/threads.h"

#ifdef LLMC_TARGET_CPU
#include <stdlib.h>
#include <unistd.h>

#include "parallel.h"

// A launcher may have bound this process to fewer processors than its share.
static int default_threads(int processes) {
    const int all = (int)sysconf(_SC_NPROCESSORS_ONLN), share = all / processes > 1 ? all / processes : 1;
    return getenv("OMP_NUM_THREADS") || host_threads() < share ? host_threads() : share;
}

int threads_set(int threads, int processes, Error *err) {
    if (threads < 0) return fail_input(err, "%d threads, expected 0 (all) or more", threads);
    if (threads > 0)
        host_set_threads(threads);
    else if (processes > 1)
        host_set_threads(default_threads(processes));
    return 0;
}

int threads_used(void) { return host_threads(); }
#else

int threads_set(int threads, int processes, Error *err) {
    (void)processes;
    return threads == 0 ? 0 : fail_input(err, "%d threads: expected 0, this build computes on the GPU", threads);
}

int threads_used(void) { return 1; }
#endif
