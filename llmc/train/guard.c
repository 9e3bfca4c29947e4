#include "train/guard.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/path.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/store.h"
#include "model/llama3.h"
#include "model/llama3_weights.h"
#include "train/agree.h"

enum { MAX_ROLLBACKS = 5 }; // without a new checkpoint in between

int guard_open(Guard *g, Run *run, TrainState *state, Llama3 *model, Saver *saver, Error *err) {
    *g = (Guard){.run = run, .state = state, .model = model, .saver = saver};
    g->checksums = calloc(2 * (size_t)llama3_parameters(model)->count, sizeof *g->checksums);
    return g->checksums ? 0 : fail_fault(err, "out of memory");
}

void guard_close(Guard *g) {
    free(g->checksums);
    g->checksums = NULL;
}

float guard_max_loss(const Guard *g) {
    const Options *o = &g->run->options;
    return o->on_spike == ON_SPIKE_SKIP ? (float)spike_limit(&g->state->spikes, o->spike_deviations) : INFINITY;
}

static int64_t batch_of_last_step(const Guard *g) { return g->state->step - 1 + g->state->data_offset; }

// Counts and logs a step without an update. The loader's step that is named replays its batch.
static void note_skip(Guard *g, const char *reason) {
    g->state->skipped_steps++;
    log_skip(&g->run->log, g->state->step, reason, batch_of_last_step(g), g->state->skipped_steps);
    progress_print(&g->run->progress, "step %lld: %s: update skipped (batch %lld; %lld skipped in all)",
                   (long long)g->state->step, reason, (long long)batch_of_last_step(g),
                   (long long)g->state->skipped_steps);
}

static int guard_not_finite(Guard *g, const StepReport *r, Error *err) {
    char reason[64];
    snprintf(reason, sizeof reason, "%s is %f", isfinite(r->loss) ? "gradient norm" : "loss",
             (double)(isfinite(r->loss) ? r->grad_norm : r->loss));
    note_skip(g, reason);
    if (++g->not_finite_in_a_row < g->run->options.max_skipped) return 0;
    log_stop(&g->run->log, g->state->step, reason);
    return fail_fault(err,
                      "step %lld: the %s, at %lld steps in a row (--max-skipped; --seed %lld, learning rate %g): "
                      "stopped without a checkpoint of this state, the log is kept in %s",
                      (long long)g->state->step, reason, (long long)g->not_finite_in_a_row,
                      (long long)g->run->options.seed, (double)r->lr, g->run->options.output);
}

static void guard_spike(Guard *g, double loss, double limit) {
    char reason[96];
    log_spike(&g->run->log, g->state->step, loss, limit, batch_of_last_step(g));
    snprintf(reason, sizeof reason, "loss %.4f is a spike (limit %.4f)", loss, limit);
    if (llama3_update_applied(g->model))
        progress_print(&g->run->progress, "step %lld: %s (batch %lld)", (long long)g->state->step, reason,
                       (long long)batch_of_last_step(g));
    else
        note_skip(g, reason);
}

// ---- back to a checkpoint

static int read_back(Guard *g, const char *folder, Error *err) {
    Resume from = {0};
    snprintf(from.folder, sizeof from.folder, "%s", folder);
    int code = checkpoint_read_state(folder, &from.state, err);
    if (!code) code = train_state_take_back(g->state, &from, &g->run->options, err);
    if (!code) code = checkpoint_read_training(folder, g->model, err);
    cJSON_Delete(from.state);
    return code;
}

// Restores weights, moments and statistics of that checkpoint; the data continue with the batch after the last step's.
static int take_back(Guard *g, const char *folder, Error *err) {
    const int64_t step = g->state->step, next_batch = step + g->state->data_offset;
    int code = team_agree(&g->run->team, read_back(g, folder, err), err);
    if (code) return code;
    log_rollback(&g->run->log, step, g->state->step);
    progress_print(&g->run->progress,
                   "step %lld: rolled back to the checkpoint of step %lld; batches up to %lld left out",
                   (long long)step, (long long)g->state->step, (long long)next_batch - 1);
    g->state->data_offset = next_batch - g->state->step;
    return 0;
}

static int find_newest(Guard *g, char folder[PATH_MAX], Error *err) {
    char store[PATH_MAX];
    int code = path_join(store, g->run->options.output, "checkpoints", err);
    return code ? code : store_newest_whole(folder, store, NULL, NULL, err);
}

// Rank 0 finds the newest checkpoint, and knows how many rollbacks there were since one became whole.
static int agree_on_newest(Guard *g, char folder[PATH_MAX], Error *err) {
    if (g->num_whole != g->saver->num_whole) g->rollbacks = 0;
    g->num_whole = g->saver->num_whole;
    memset(folder, 0, PATH_MAX);
    int code = team_follow(&g->run->team, team_leads(&g->run->team) ? find_newest(g, folder, err) : 0, err);
    if (code || g->run->team.size == 1) return code;
    comm_host_broadcast(g->run->team.comm, folder, PATH_MAX, 0);
    comm_host_broadcast(g->run->team.comm, &g->rollbacks, sizeof g->rollbacks, 0);
    return 0;
}

// *done: there was a checkpoint to go back to.
static int roll_back(Guard *g, bool *done, Error *err) {
    char folder[PATH_MAX];
    saver_wait(g->saver);
    int code = agree_on_newest(g, folder, err);
    if (code) return code;
    if (!folder[0]) {
        progress_print(&g->run->progress, "step %lld: no checkpoint to roll back to, training goes on",
                       (long long)g->state->step);
        return 0;
    }
    if (++g->rollbacks > MAX_ROLLBACKS)
        return fail_fault(err, "step %lld: a loss spike again after %d rollbacks to %s: stopped",
                          (long long)g->state->step, MAX_ROLLBACKS, folder);
    *done = true;
    return take_back(g, folder, err);
}

int guard_step(Guard *g, const StepReport *report, bool *rolled_back, Error *err) {
    *rolled_back = false;
    const double loss = report->loss;
    if (!isfinite(loss) || !isfinite(report->grad_norm)) return guard_not_finite(g, report, err);
    g->not_finite_in_a_row = 0;
    // rounded to float, as the device compared with it
    const double limit = (float)spike_limit(&g->state->spikes, g->run->options.spike_deviations);
    if (loss > limit) guard_spike(g, loss, limit);
    if (loss > limit && g->run->options.on_spike == ON_SPIKE_ROLLBACK) {
        int code = roll_back(g, rolled_back, err);
        if (code || *rolled_back) return code;
    }
    spike_observe(&g->state->spikes, loss, limit);
    return 0;
}

int guard_checksum(Guard *g, Error *err) {
    char when[64];
    snprintf(when, sizeof when, "step %lld: weights", (long long)g->state->step);
    int code = agree_on_weights(&g->run->team, g->model, g->checksums, when, err);
    if (code)
        log_stop(&g->run->log, g->state->step, err->message);
    else
        log_checksum(&g->run->log, g->state->step, llama3_checksum(g->model));
    return code;
}
