#include "train/evaluate.h"

#include <math.h>

typedef struct {
    double sum; // of losses
    int64_t targets;
} Share;

// Adds micro-batches first, first + stride and so on, `count` <= slots of them, with one wait for the device.
static int evaluate_group(Llama3 *m, Loader *loader, int64_t first, int stride, int count, Share *share, Error *err) {
    int64_t group_targets = 0;
    for (int i = 0; i < count; i++) {
        int code = loader_fetch(loader, first + (int64_t)i * stride, 0, llama3_batch(m, i), err);
        if (code) return code;
        group_targets += llama3_batch(m, i)->num_targets;
    }
    llama3_begin_step(m, group_targets);
    for (int i = 0; i < count; i++) llama3_forward_loss(m, i);
    float mean;
    llama3_result(m, &mean, NULL);
    share->sum += (double)mean * (double)group_targets;
    share->targets += group_targets;
    return 0;
}

// Of `batches` micro-batches the rank's: every size-th.
static int evaluate_share(Llama3 *m, Loader *loader, int rank, int size, int64_t batches, int slots, Share *share,
                          Error *err) {
    for (int64_t first = rank; first < batches; first += (int64_t)slots * size) {
        const int64_t left = (batches - first + size - 1) / size;
        int code = evaluate_group(m, loader, first, size, left < slots ? (int)left : slots, share, err);
        if (code) return code;
    }
    return 0;
}

// Added in the order of the ranks, so that all have the same sum.
static Share add_up(const Team *team, Share mine) {
    Share *all = team->scratch, whole = {0};
    comm_host_gather(team->comm, all, &mine, sizeof mine);
    for (int i = 0; i < team->size; i++) {
        whole.sum += all[i].sum;
        whole.targets += all[i].targets;
    }
    return whole;
}

int evaluate(Llama3 *m, Loader *loader, const Team *team, int64_t batches, int slots, double *loss, Error *err) {
    const bool many = team && team->size > 1;
    const int64_t whole = (int64_t)loader_num_batches(loader);
    Share share = {0};
    if (batches > whole) batches = whole > 0 ? whole : 1;
    int code = evaluate_share(m, loader, many ? team->rank : 0, many ? team->size : 1, batches, slots, &share, err);
    if (many) code = team_agree(team, code, err);
    if (code) return code;
    if (many) share = add_up(team, share);
    *loss = share.targets ? share.sum / (double)share.targets : NAN;
    return 0;
}
