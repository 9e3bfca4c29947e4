#include "loader/share_walk.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>

bool share_walk_create(ShareWalk *walk, int count) {
    const size_t n = (size_t)count;
    walk->count = count;
    walk->taken = calloc(n, sizeof *walk->taken);
    walk->credit = calloc(3 * n, sizeof *walk->credit);
    if (!walk->taken || !walk->credit) return false;
    walk->share = walk->credit + n;
    walk->slope = walk->share + n;
    return true;
}

void share_walk_free(ShareWalk *walk) {
    free(walk->taken);
    free(walk->credit);
}

static void drop(ShareWalk *walk, int source) {
    walk->share[source] = walk->slope[source] = 0;
    walk->credit[source] = -INFINITY;
    walk->num_active--;
    walk->sum_share = walk->sum_slope = 0;
    for (int i = 0; i < walk->count; i++) {
        walk->sum_share += walk->share[i];
        walk->sum_slope += walk->slope[i];
    }
}

void share_walk_begin(ShareWalk *walk, const SourceShare *sources, int64_t rows) {
    walk->sources = sources;
    walk->rows = rows;
    walk->row = 0;
    walk->num_active = walk->count;
    walk->sum_share = 1;
    walk->sum_slope = 0;
    for (int i = 0; i < walk->count; i++) {
        walk->taken[i] = 0;
        walk->share[i] = sources[i].share;
        walk->slope[i] = sources[i].slope;
        walk->credit[i] = sources[i].credit;
    }
    for (int i = 0; i < walk->count; i++)
        if (!share_is_used(&sources[i]) || sources[i].left == 0) drop(walk, i);
}

int share_walk_next(ShareWalk *walk) {
    const double x = ((double)walk->row + 0.5) / (double)walk->rows;
    const double scale = 1 / (walk->sum_share + walk->sum_slope * x);
    int best = 0;
    for (int i = 0; i < walk->count; i++) {
        walk->credit[i] += (walk->share[i] + walk->slope[i] * x) * scale;
        if (walk->credit[i] > walk->credit[best]) best = i;
    }
    walk->credit[best] -= 1;
    walk->row++;
    if (++walk->taken[best] == walk->sources[best].left) drop(walk, best);
    return best;
}

void share_walk_to(ShareWalk *walk, int64_t row) {
    if (row < walk->row) share_walk_begin(walk, walk->sources, walk->rows);
    while (walk->row < row) share_walk_next(walk);
}
