// The order in which one source's tokens are read: its blocks in an order by epoch, and ranges of windows out of them
// (loader/mixture.h).
#ifndef LLMC_LOADER_SOURCE_ORDER_H
#define LLMC_LOADER_SOURCE_ORDER_H

#include <stdint.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    uint64_t epoch, place, offset; // the block's place in the epoch's order, and the position in the block
} OrderPlace;

// `windows` windows from `begin` on, over as many epochs as it takes.
typedef struct {
    OrderPlace begin;
    uint64_t windows;
    uint64_t in_first, before; // windows of the first epoch: those from there on that may be read, those in front of it
} OrderRange;

// A block that is shorter than the others: the last one of its shard.
typedef struct {
    uint64_t place;
    uint64_t windows,
        positions; // how many the short blocks up to this one, in the epoch's order, lack of whole blocks'
} ShortBlock;

typedef struct {
    uint64_t key, block, num_blocks, positions; // positions of an epoch
    uint64_t *first_block;                      // [num_shards + 1]: blocks in the shards before
    uint64_t *shard_positions;                  // [num_shards]
    int num_shards, num_short;
    double max_epochs;         // 0: no limit
    uint64_t T, windows;       // of windows; in an epoch
    uint64_t epoch, order_key; // of the table
    ShortBlock *short_blocks;  // [num_short], by place, of that epoch and T
} SourceOrder;

// positions [num_shards], each >= 1. key: of the seed and the source. Errors: 1 (memory); source_order_free is due then too.
int source_order_create(SourceOrder *order, const uint64_t *positions, int num_shards, int block, uint64_t key,
                        double max_epochs, Error *err);
void source_order_free(SourceOrder *order);

// Windows are of T positions from here on; a divisor of the block.
void source_order_set_length(SourceOrder *order, int T);

// Windows from there on until max_epochs are read; UINT64_MAX: no limit.
uint64_t source_order_left(SourceOrder *order, OrderPlace from);

OrderRange source_order_range(SourceOrder *order, OrderPlace begin, uint64_t windows);

// *shard and *first = where window k of the range (< its windows) begins, once they are shuffled.
void source_order_find(SourceOrder *order, const OrderRange *range, uint64_t k, int *shard, uint64_t *first);

// Where the next range begins if of this one `taken` windows are read: behind all those that they were shuffled with.
OrderPlace source_order_end(SourceOrder *order, const OrderRange *range, uint64_t taken);

// Positions of all epochs in front of a place.
uint64_t source_order_positions(SourceOrder *order, OrderPlace place);

#ifdef __cplusplus
}
#endif
#endif
