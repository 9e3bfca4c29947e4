// Device memory that only the device sees. With LLMC_STANDIN_GUARD=1 the host's own reads and writes of it end the program, as
// they would with a GPU: its pages are closed except while work on a stream runs or the runtime copies. It wants
// LLMC_HOST_STREAMS=lazy or random:SEED, since with eager streams work and host code are not told apart.
#ifndef LLMC_STANDINS_GUARD_H
#define LLMC_STANDINS_GUARD_H

#include <stddef.h>

bool guard_is_on();

// Bytes to allocate so that `bytes` of them fill whole pages; which of those is to be used; closes them.
size_t guard_room(size_t bytes);
void *guard_begin(void *allocated);
void guard_add(void *begin, size_t bytes);
void guard_remove(void *begin);

// Between these two the host sees it too, in all threads.
void guard_open();
void guard_close();

#endif
