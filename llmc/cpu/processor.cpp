// Ends the program, before any other part of it runs, on a processor that lacks what the kernels are compiled for: they would
// end in an illegal instruction. This file itself is compiled for every x86-64.
#include <string.h>
#include <unistd.h>

#ifdef __x86_64__

// What compilers use of a level beyond the one below it, as far as processors differ in it.
static bool has_level(const char *level) {
    __builtin_cpu_init();
    if (strcmp(level, "x86-64") == 0) return true;
    const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                    __builtin_cpu_supports("bmi2");
    if (strcmp(level, "x86-64-v3") == 0) return v3;
    return v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

// Priority: before the constructors of C++.
__attribute__((constructor(101))) static void check_processor() {
    static const char message[] = "llmc: this program is built for " LLMC_MACHINE ", which this processor is not: "
                                  "build it here by make, or for every x86-64 by make MACHINE=portable\n";
    if (has_level(LLMC_MACHINE)) return;
    if (write(STDERR_FILENO, message, sizeof message - 1) < 0) _exit(1);
    _exit(2);
}

#endif
