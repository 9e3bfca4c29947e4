// The pages of a cache (kernels/kv_cache_layout.h) by number: which are free, how many rows hold each, and which are kept after
// that, as a later text may begin with their tokens. All operations take the same time for any number of pages.
#ifndef LLMC_GENERATE_PAGES_H
#define LLMC_GENERATE_PAGES_H

#include <stdint.h>

#include "base/error.h"
#include "kernels/kv_cache_layout.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Pages Pages;

enum { PAGE_TOKENS = KV_CACHE_BLOCK };

int pages_create(Pages **out, int64_t count, Error *err); // Errors: 1 (memory), 2 (count)
void pages_destroy(Pages *p);                             // NULL is allowed

int64_t pages_count(const Pages *p);
int64_t pages_free(const Pages *p);   // that nobody holds
int64_t pages_shared(const Pages *p); // held more than once

// A page that nobody holds, now held once: one without kept tokens, else that whose last holder left first. -1: all are held.
int32_t pages_take(Pages *p);
void pages_hold(Pages *p, int32_t page); // once more
void pages_drop(Pages *p, int32_t page); // once less

// Texts that begin alike share a prefix of whole pages, which has a number; 0 is the empty one.
//
// The page has these tokens [PAGE_TOKENS] behind the prefix, and all that it says of them is computed. Returns the number of
// the longer prefix. Where another page has it already, that one stays the prefix's.
uint64_t pages_keep(Pages *p, int32_t page, uint64_t prefix, const int32_t *tokens);

// The kept page with these tokens behind *prefix, which becomes the longer one; the page is held once more. -1: none.
int32_t pages_find(Pages *p, uint64_t *prefix, const int32_t *tokens);

#ifdef __cplusplus
}
#endif
#endif
