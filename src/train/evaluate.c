#include "train/evaluate.h"

#include <math.h>

// The mean loss of micro-batches [first, first + count), count <= slots, with one wait for the device.
static int evaluate_group(Llama3 *m, Loader *loader, int64_t first, int count, double *sum, int64_t *targets,
                          Error *err) {
    int64_t group_targets = 0;
    for (int i = 0; i < count; i++) {
        int code = loader_fetch(loader, first + i, 0, llama3_batch(m, i), err);
        if (code) return code;
        group_targets += llama3_batch(m, i)->num_targets;
    }
    llama3_begin_step(m, group_targets);
    for (int i = 0; i < count; i++) llama3_forward_loss(m, i);
    float mean;
    llama3_result(m, &mean, NULL);
    *sum += (double)mean * (double)group_targets;
    *targets += group_targets;
    return 0;
}

int evaluate(Llama3 *m, Loader *loader, int B, int64_t batches, int slots, double *loss, Error *err) {
    int64_t whole = (int64_t)(loader_num_windows(loader) / (uint64_t)B);
    if (batches > whole) batches = whole > 0 ? whole : 1;
    double sum = 0;
    int64_t targets = 0;
    for (int64_t first = 0; first < batches; first += slots) {
        int count = batches - first < slots ? (int)(batches - first) : slots;
        int code = evaluate_group(m, loader, first, count, &sum, &targets, err);
        if (code) return code;
    }
    *loss = targets ? sum / (double)targets : NAN;
    return 0;
}
