#include "loader/batch.h"

#include <stddef.h>
#include <string.h>

// Counting sort: ids are counted, the counts become places, and positions go to them in their order.
void batch_sort(const int32_t *tokens, int32_t *order, int count, int32_t *scratch, int vocab_size) {
    int32_t *place = scratch; // where in `order` the next position of an id goes
    memset(place, 0, ((size_t)vocab_size + 1) * sizeof *place);
    for (int i = 0; i < count; i++) place[tokens[i] + 1]++;
    for (int id = 0; id < vocab_size; id++) place[id + 1] += place[id];
    for (int i = 0; i < count; i++) order[place[tokens[i]]++] = i;
}
