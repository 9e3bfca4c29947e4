#include "loader/packing.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

#include "loader/permutation.h"

#define NONE UINT32_MAX

// Packs by the room that is left in them. Packs of one room are a stack; a binary tree over the rooms, root 1, finds the
// smallest one that is large enough.
typedef struct {
    size_t leaves;   // a power of two above T
    bool *any;       // [2 * leaves]: leaf `leaves + room`: a pack has that room; above: a leaf below it does
    uint32_t *top;   // [T + 1] a pack with that room, NONE
    uint32_t *under; // [packs] the next pack of the same room, NONE
} Rooms;

static void mark(Rooms *rooms, uint32_t room, bool has) {
    size_t node = rooms->leaves + room;
    rooms->any[node] = has;
    for (node /= 2; node >= 1; node /= 2) rooms->any[node] = rooms->any[2 * node] || rooms->any[2 * node + 1];
}

static void push(Rooms *rooms, uint32_t room, uint32_t pack) {
    rooms->under[pack] = rooms->top[room];
    if (rooms->top[room] == NONE) mark(rooms, room, true);
    rooms->top[room] = pack;
}

static uint32_t pop(Rooms *rooms, uint32_t room) {
    uint32_t pack = rooms->top[room];
    rooms->top[room] = rooms->under[pack];
    if (rooms->top[room] == NONE) mark(rooms, room, false);
    return pack;
}

// The smallest room of at least `least` that a pack has, or NONE.
static uint32_t find_room(const Rooms *rooms, uint32_t least) {
    size_t node = rooms->leaves + least;
    if (rooms->any[node]) return least;
    while (node > 1 && (node % 2 == 1 || !rooms->any[node + 1])) node /= 2;
    if (node <= 1) return NONE;
    for (node++; node < rooms->leaves;) node = rooms->any[2 * node] ? 2 * node : 2 * node + 1;
    return (uint32_t)(node - rooms->leaves);
}

static bool rooms_create(Rooms *rooms, uint32_t T, size_t packs) {
    rooms->leaves = 1;
    while (rooms->leaves <= T) rooms->leaves *= 2;
    rooms->any = calloc(2 * rooms->leaves, sizeof *rooms->any);
    rooms->top = malloc(((size_t)T + 1) * sizeof *rooms->top);
    rooms->under = malloc((packs + 1) * sizeof *rooms->under); // + 1: 0 bytes may come back as NULL
    for (size_t room = 0; rooms->top && room <= T; room++) rooms->top[room] = NONE;
    return rooms->any && rooms->top && rooms->under;
}

static void rooms_free(Rooms *rooms) {
    free(rooms->any);
    free(rooms->top);
    free(rooms->under);
}

// order = items from the longest to the shortest, by counting; among those of one length in the permutation's order.
// place: [T + 1], zero.
static void sort_by_length(uint32_t *order, const uint32_t *lengths, uint32_t count, uint32_t T, uint64_t *place,
                           uint64_t seed) {
    const uint64_t key = permutation_key(seed, UINT64_MAX); // a number that no epoch has
    for (uint32_t i = 0; i < count; i++) place[T - lengths[i] + 1]++;
    for (uint32_t i = 0; i < T; i++) place[i + 1] += place[i];
    for (uint32_t i = 0; i < count; i++) {
        uint32_t item = (uint32_t)permutation_at(i, count, key);
        order[place[T - lengths[item]]++] = item;
    }
}

// pack_of[item] = its pack. Returns the number of packs.
static uint32_t place_all(Rooms *rooms, uint32_t *pack_of, const uint32_t *order, const uint32_t *lengths,
                          uint32_t count, uint32_t T) {
    uint32_t packs = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t item = order[i], room = find_room(rooms, lengths[item]);
        pack_of[item] = room == NONE ? packs++ : pop(rooms, room);
        push(rooms, (room == NONE ? T : room) - lengths[item], pack_of[item]);
    }
    return packs;
}

// Items by pack, by counting, in the order in which they were placed.
static bool collect(Packing *p, const uint32_t *pack_of, const uint32_t *order, uint32_t count) {
    p->first = calloc(p->num_packs + 2, sizeof *p->first);
    p->items = malloc(((size_t)count + 1) * sizeof *p->items);
    if (!p->first || !p->items) return false;
    uint64_t *place = p->first + 1; // of each pack's next item; after its last it is where the next pack begins
    for (uint32_t i = 0; i < count; i++) place[pack_of[i] + 1]++;
    for (uint64_t pack = 0; pack < p->num_packs; pack++) place[pack + 1] += place[pack];
    for (uint32_t i = 0; i < count; i++) p->items[place[pack_of[order[i]]]++] = order[i];
    return true;
}

int packing_create(Packing *out, const uint32_t *lengths, uint32_t count, uint32_t T, uint64_t seed, Error *err) {
    Packing p = {0};
    Rooms rooms = {0};
    uint32_t *order = calloc((size_t)count + 1, sizeof *order), *pack_of = calloc((size_t)count + 1, sizeof *pack_of);
    uint64_t *place = calloc((size_t)T + 1, sizeof *place);
    bool enough = rooms_create(&rooms, T, count) && order && pack_of && place;
    if (enough) {
        sort_by_length(order, lengths, count, T, place, seed);
        p.num_packs = place_all(&rooms, pack_of, order, lengths, count, T);
        enough = collect(&p, pack_of, order, count);
    }
    rooms_free(&rooms);
    free(order);
    free(pack_of);
    free(place);
    if (enough) {
        *out = p;
        return 0;
    }
    packing_free(&p);
    return fail_fault(err, "no memory to pack %u rows", count);
}

void packing_free(Packing *packing) {
    free(packing->first);
    free(packing->items);
    *packing = (Packing){0};
}
