#include "generate/threads.h"

#ifdef _OPENMP
#include <omp.h>
#endif

int threads_set(int threads, Error *err) {
    if (threads < 0) return fail_input(err, "%d threads, expected 0 (all) or more", threads);
#ifdef _OPENMP
    if (threads > 0) omp_set_num_threads(threads);
#else
    if (threads > 0) return fail_input(err, "%d threads: expected 0, this build computes on the GPU", threads);
#endif
    return 0;
}
