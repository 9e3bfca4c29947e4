#ifndef LLMC_BASE_HOST_MEMORY_H
#define LLMC_BASE_HOST_MEMORY_H

#include <stddef.h>

// Bytes of the machine's memory that can be had without swapping.
size_t host_memory_available(void);

#endif
