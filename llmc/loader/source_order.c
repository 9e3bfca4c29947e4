#include "loader/source_order.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>

#include "loader/permutation.h"

// Windows are shuffled among so many: enough that two of one block rarely meet in a batch, and few enough that
// what is passed over, where another length begins before a range is read to its end, is little of a large source.
enum { SHUFFLED_TOGETHER = 1 << 22 };

enum { KEY_OF_BLOCKS, KEY_OF_WINDOWS };

// ---- An epoch's table

static uint64_t key_of(const SourceOrder *order, int what, uint64_t epoch) {
    return permutation_key(permutation_key(order->key, (uint64_t)what), epoch);
}

static int compare_places(const void *a, const void *b) {
    const ShortBlock *x = a, *y = b;
    return (x->place > y->place) - (x->place < y->place);
}

// The short blocks in the epoch's order: all that the place of a window depends on, as the others are of one length.
static void make_table(SourceOrder *order, uint64_t epoch) {
    if (order->epoch == epoch) return;
    order->epoch = epoch;
    order->order_key = key_of(order, KEY_OF_BLOCKS, epoch);
    int count = 0;
    for (int i = 0; i < order->num_shards; i++) {
        const uint64_t rest = order->shard_positions[i] % order->block, last = order->first_block[i + 1] - 1;
        if (rest == 0) continue;
        order->short_blocks[count++] =
            (ShortBlock){.place = permutation_inverse(last, order->num_blocks, order->order_key),
                         .windows = order->block / order->T - rest / order->T,
                         .positions = order->block - rest};
    }
    qsort(order->short_blocks, (size_t)count, sizeof *order->short_blocks, compare_places);
    for (int i = 1; i < count; i++) {
        order->short_blocks[i].windows += order->short_blocks[i - 1].windows;
        order->short_blocks[i].positions += order->short_blocks[i - 1].positions;
    }
}

// How many short blocks stand before a place.
static int short_before(const SourceOrder *order, uint64_t place) {
    int low = 0, high = order->num_short;
    while (low < high) {
        const int middle = low + (high - low) / 2;
        if (order->short_blocks[middle].place < place)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

// Windows of whole blocks at places [0, place).
static uint64_t windows_to(const SourceOrder *order, uint64_t place) {
    const int count = short_before(order, place);
    const uint64_t lacking = count ? order->short_blocks[count - 1].windows : 0;
    return place * (order->block / order->T) - lacking;
}

static uint64_t positions_to(const SourceOrder *order, uint64_t place) {
    const int count = short_before(order, place);
    const uint64_t lacking = count ? order->short_blocks[count - 1].positions : 0;
    return place * order->block - lacking;
}

static uint64_t length_of(const SourceOrder *order, uint64_t place) {
    return positions_to(order, place + 1) - positions_to(order, place);
}

// The place of window `window` of an epoch that is read from its first block's begin; at its end: behind the last block.
static OrderPlace place_of(const SourceOrder *order, uint64_t window) {
    const uint64_t by_block = order->block / order->T;
    assert(by_block > 0);
    int low = 0, high = order->num_short; // short blocks that end at or before the window
    while (low < high) {
        const int middle = low + (high - low) / 2;
        const ShortBlock *s = &order->short_blocks[middle];
        if ((s->place + 1) * by_block - s->windows <= window)
            low = middle + 1;
        else
            high = middle;
    }
    const uint64_t whole = window + (low ? order->short_blocks[low - 1].windows : 0);
    return (OrderPlace){order->epoch, whole / by_block, whole % by_block * order->T};
}

// ---- From a place on

// Windows in what is left of the place's block.
static uint64_t windows_in_rest(const SourceOrder *order, OrderPlace from) {
    const uint64_t length = from.place < order->num_blocks ? length_of(order, from.place) : 0;
    return from.offset < length ? (length - from.offset) / order->T : 0;
}

// The place of window `window`, counted from another place of the same epoch.
static OrderPlace place_after(const SourceOrder *order, OrderPlace from, uint64_t window) {
    const uint64_t rest = windows_in_rest(order, from);
    if (window < rest) return (OrderPlace){from.epoch, from.place, from.offset + window * order->T};
    return place_of(order, window - rest + windows_to(order, from.place + 1));
}

static uint64_t windows_of_fraction(const SourceOrder *order, double fraction) {
    return (uint64_t)(fraction * (double)order->windows + 0.5);
}

// Windows of the epoch from a place on, up to max_epochs if they end in it.
static uint64_t windows_of_epoch(SourceOrder *order, OrderPlace from) {
    make_table(order, from.epoch);
    const double fraction = order->max_epochs - (double)from.epoch;
    const bool limited = order->max_epochs > 0 && fraction < 1;
    if (from.place >= order->num_blocks || (limited && fraction <= 0)) return 0;
    const uint64_t rest = windows_in_rest(order, from), next = windows_to(order, from.place + 1);
    if (!limited) return rest + order->windows - next;
    // the last epoch ends at a place, wherever it is read from
    const OrderPlace end = place_of(order, windows_of_fraction(order, fraction));
    if (end.place > from.place) return rest + windows_to(order, end.place) - next + end.offset / order->T;
    return end.place == from.place && end.offset > from.offset ? (end.offset - from.offset) / order->T : 0;
}

uint64_t source_order_left(SourceOrder *order, OrderPlace from) {
    if (order->max_epochs <= 0) return order->windows > 0 ? UINT64_MAX : 0;
    const uint64_t here = windows_of_epoch(order, from);
    const double behind = order->max_epochs - (double)from.epoch - 1;
    if (behind <= 0) return here;
    const uint64_t whole = (uint64_t)behind;
    return here + whole * order->windows + windows_of_fraction(order, behind - (double)whole);
}

// ---- Ranges

typedef struct {
    OrderPlace begin;
    uint64_t index, size; // of the window in the part, and of the part
} Part;

OrderRange source_order_range(SourceOrder *order, OrderPlace begin, uint64_t windows) {
    make_table(order, begin.epoch);
    const uint64_t before = windows_to(order, begin.place + 1) - windows_in_rest(order, begin);
    return (OrderRange){begin, windows, windows_of_epoch(order, begin), before};
}

// The part of a range, of one epoch, that its window k is in.
static Part part_of(const SourceOrder *order, const OrderRange *range, uint64_t k) {
    const uint64_t here = range->in_first;
    if (k < here) return (Part){range->begin, k, here < range->windows ? here : range->windows};
    const uint64_t epochs = (k - here) / order->windows, before = here + epochs * order->windows;
    const uint64_t left = range->windows - before;
    const OrderPlace begin = {.epoch = range->begin.epoch + 1 + epochs};
    return (Part){begin, k - before, left < order->windows ? left : order->windows};
}

// A window's number in its part, once they are shuffled.
static uint64_t shuffled(const SourceOrder *order, const Part *part) {
    const uint64_t first = part->index / SHUFFLED_TOGETHER * SHUFFLED_TOGETHER;
    const uint64_t left = part->size - first, together = left < SHUFFLED_TOGETHER ? left : SHUFFLED_TOGETHER;
    uint64_t key = key_of(order, KEY_OF_WINDOWS, part->begin.epoch);
    key = permutation_key(permutation_key(key, part->begin.place), part->begin.offset);
    return first + permutation_at(part->index - first, together, permutation_key(key, first));
}

void source_order_find(SourceOrder *order, const OrderRange *range, uint64_t k, int *shard, uint64_t *first) {
    const Part part = part_of(order, range, k);
    make_table(order, part.begin.epoch);
    const OrderPlace place = place_after(order, part.begin, shuffled(order, &part));
    const uint64_t block = permutation_at(place.place, order->num_blocks, order->order_key);
    int low = 0, high = order->num_shards;
    while (high - low > 1) {
        const int middle = low + (high - low) / 2;
        if (order->first_block[middle] <= block)
            low = middle;
        else
            high = middle;
    }
    *shard = low;
    *first = (block - order->first_block[low]) * order->block + place.offset;
}

OrderPlace source_order_end(SourceOrder *order, const OrderRange *range, uint64_t taken) {
    if (taken == 0) return range->begin;
    const Part part = part_of(order, range, taken - 1);
    uint64_t end = (part.index / SHUFFLED_TOGETHER + 1) * SHUFFLED_TOGETHER;
    if (end > part.size) end = part.size;
    make_table(order, part.begin.epoch);
    OrderPlace place = place_after(order, part.begin, end - 1);
    place.offset += order->T;
    if (place.offset == length_of(order, place.place)) place = (OrderPlace){place.epoch, place.place + 1, 0};
    if (place.place == order->num_blocks) place = (OrderPlace){.epoch = place.epoch + 1};
    return place;
}

uint64_t source_order_positions(SourceOrder *order, OrderPlace place) {
    make_table(order, place.epoch);
    return place.epoch * order->positions + positions_to(order, place.place) + place.offset;
}

// ---- Making and ending

void source_order_set_length(SourceOrder *order, int T) {
    order->T = (uint64_t)T;
    order->epoch = UINT64_MAX; // the table is another
    order->windows = 0;
    for (int i = 0; i < order->num_shards; i++) order->windows += order->shard_positions[i] / order->T;
}

int source_order_create(SourceOrder *order, const uint64_t *positions, int num_shards, int block, uint64_t key,
                        double max_epochs, Error *err) {
    const size_t count = (size_t)num_shards;
    order->key = key;
    order->max_epochs = max_epochs;
    order->block = (uint64_t)block;
    order->num_shards = num_shards;
    order->first_block = calloc(count + 1, sizeof *order->first_block);
    order->shard_positions = calloc(count, sizeof *order->shard_positions);
    if (!order->first_block || !order->shard_positions) return fail_fault(err, "no memory for %d shards", num_shards);
    for (int i = 0; i < num_shards; i++) {
        order->shard_positions[i] = positions[i];
        order->positions += positions[i];
        order->num_short += positions[i] % order->block != 0;
        order->first_block[i + 1] = order->first_block[i] + (positions[i] + order->block - 1) / order->block;
    }
    order->num_blocks = order->first_block[num_shards];
    order->short_blocks = calloc((size_t)order->num_short + 1, sizeof *order->short_blocks);
    return order->short_blocks ? 0 : fail_fault(err, "no memory for %d shards", num_shards);
}

void source_order_free(SourceOrder *order) {
    free(order->first_block);
    free(order->shard_positions);
    free(order->short_blocks);
}
