#include "train/evaluate.h"

#include <math.h>
#include <stdio.h>

#include "model/llama3.h"
#include "train/ref_logprobs.h"

// Adds (+=) `count` <= slots micro-batches, from `first` on in steps of `stride`, with one wait for the device.
static int evaluate_group(Llama3 *m, Loader *loader, const float *ref_logprobs, int64_t first, int stride, int count,
                          Evaluated *share, Error *err) {
    int64_t targets = 0;
    float mean;
    for (int i = 0; i < count; i++) {
        int code = loader_fetch(loader, first + (int64_t)i * stride, 0, llama3_batch(m, i), err);
        if (code) return code;
        if (ref_logprobs) ref_logprobs_fill(m, i, ref_logprobs);
        targets += llama3_batch(m, i)->num_targets;
    }
    llama3_begin_step(m, targets);
    for (int i = 0; i < count; i++) llama3_forward_loss(m, i);
    llama3_result(m, &mean, NULL);
    for (int s = 0; s < PREFERENCE_SUMS; s++) share->sums[s] += (double)llama3_step_sums(m)[s];
    share->targets += targets;
    return 0;
}

// This rank's part of `batches` micro-batches: every size-th.
static int evaluate_share(Llama3 *m, Loader *loader, const float *ref_logprobs, const Team *team, int64_t batches,
                          int slots, Evaluated *share, Error *err) {
    const int rank = team ? team->rank : 0, size = team ? team->size : 1;
    for (int64_t first = rank; first < batches; first += (int64_t)slots * size) {
        const int64_t left = (batches - first + size - 1) / size;
        const int count = left < slots ? (int)left : slots;
        int code = evaluate_group(m, loader, ref_logprobs, first, size, count, share, err);
        if (code) return code;
    }
    return 0;
}

static int64_t limit_to_epoch(const Loader *loader, int64_t batches) {
    const int64_t whole = (int64_t)loader_num_batches(loader);
    return batches <= whole ? batches : whole > 0 ? whole : 1;
}

bool evaluate_coverage(char *text, size_t capacity, const Loader *loader, int B, int64_t batches) {
    const long long all = (long long)loader_num_windows(loader), covered = limit_to_epoch(loader, batches) * B;
    const char *const unit = loader_num_rows(loader) ? "packs" : "windows";
    if (covered >= all)
        snprintf(text, capacity, "all %lld %s", all, unit);
    else
        snprintf(text, capacity, "%lld of %lld %s", covered, all, unit);
    return covered >= all;
}

void evaluated_add(Evaluated *to, const Evaluated *more) {
    for (int s = 0; s < PREFERENCE_SUMS; s++) to->sums[s] += more->sums[s];
    to->targets += more->targets;
}

// The shares are added in the order of the ranks, so that all ranks get the same sums.
static Evaluated add_up(const Team *team, Evaluated mine) {
    Evaluated *all = team->scratch, whole = {0};
    comm_host_gather(team->comm, all, &mine, sizeof mine);
    for (int i = 0; i < team->size; i++) evaluated_add(&whole, &all[i]);
    return whole;
}

int evaluate(Llama3 *m, Loader *loader, const float *ref_logprobs, const Team *team, int64_t batches, int slots,
             Evaluated *result, Error *err) {
    const bool many = team && team->size > 1;
    *result = (Evaluated){0};
    batches = limit_to_epoch(loader, batches);
    int code = evaluate_share(m, loader, ref_logprobs, team, batches, slots, result, err);
    if (many) code = team_agree(team, code, err);
    if (!code && many) *result = add_up(team, *result);
    return code;
}

double evaluated_loss(const Evaluated *result) {
    return result->targets ? result->sums[PREFERENCE_LOSS] / (double)result->targets : NAN;
}
