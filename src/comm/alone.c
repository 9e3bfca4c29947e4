// No traces yet: what trace.c replaces.
#include "target/trace.h"
void trace_begin(TraceLane l, const char *n, int i, cudaStream_t s){(void)l;(void)n;(void)i;(void)s;}
void trace_end(TraceLane l, cudaStream_t s){(void)l;(void)s;}
