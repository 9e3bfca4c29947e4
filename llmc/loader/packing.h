// Which things of various lengths stand together in packs of one length: best fit decreasing. The longest first, each
// goes into the pack that it leaves the least room in. That takes at most about 11/9 of the fewest packs possible (Johnson
// et al. 1974), and with the lengths of texts hardly any room is lost.
#ifndef LLMC_LOADER_PACKING_H
#define LLMC_LOADER_PACKING_H

#include <stdint.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    uint64_t num_packs;
    uint64_t *first; // [num_packs + 1]: items of pack p are items[first[p]..first[p + 1])
    uint32_t *items; // [count] by pack, in a pack as they were put there: none longer than the one before
} Packing;

// Packs `count` items of lengths 1..T. Those of one length go in an order drawn from the seed. A pure function of its
// arguments; O(count log T + T). Errors: 1 (memory).
int packing_create(Packing *out, const uint32_t *lengths, uint32_t count, uint32_t T, uint64_t seed, Error *err);
void packing_free(Packing *packing);

#ifdef __cplusplus
}
#endif
#endif
