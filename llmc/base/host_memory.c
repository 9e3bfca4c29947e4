#include "base/host_memory.h"

#include <stdio.h>
#include <unistd.h>

size_t host_memory_available(void) {
    unsigned long long kib = 0;
    char line[256];
    FILE *file = fopen("/proc/meminfo", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1) break; // NOLINT(cert-err34-c): the kernel's own
    if (file) fclose(file);
    return kib ? (size_t)kib * 1024 : (size_t)sysconf(_SC_AVPHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
}
