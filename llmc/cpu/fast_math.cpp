// Where the seed of fast_math.h comes from.
#include "fast_math.h"

#include <stdlib.h>

#ifdef HOST_FAST_MATH

uint64_t host_fast_math_seed;

extern "C" bool host_set_fast_math(uint64_t seed) {
    host_fast_math_seed = seed;
    return true;
}

__attribute__((constructor)) static void read_seed() {
    const char *text = getenv("LLMC_HOST_FAST_MATH");
    if (text) host_fast_math_seed = strtoull(text, nullptr, 10);
}

#else
extern "C" bool host_set_fast_math(uint64_t) { return false; }
#endif
