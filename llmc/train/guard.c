// What keeps a run from being spoilt by one step: updates that are not made, loss spikes, checksums of the weights.
#include "model/llama3_weights.h"
#include "train/trainer_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/path.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/store.h"

enum { MAX_ROLLBACKS = 5 }; // with no new checkpoint in between

float trainer_max_loss(const Trainer *t) {
    const Options *o = &t->run.options;
    return o->on_spike == ON_SPIKE_SKIP ? (float)spike_limit(&t->state.spikes, o->spike_deviations) : INFINITY;
}

static int64_t batch_of_last_step(const Trainer *t) { return t->state.step - 1 + t->state.data_offset; }

// A step without update: its batch is named, as the loader's step replays it.
static void note_skip(Trainer *t, const char *reason) {
    t->state.skipped_steps++;
    log_skip(&t->run.log, t->state.step, reason, batch_of_last_step(t), t->state.skipped_steps);
    progress_print(&t->run.progress, "step %lld: %s: update skipped (batch %lld; %lld skipped in all)",
                   (long long)t->state.step, reason, (long long)batch_of_last_step(t),
                   (long long)t->state.skipped_steps);
}

static int guard_not_finite(Trainer *t, Error *err) {
    const ProgressState *s = &t->shown;
    char reason[64];
    snprintf(reason, sizeof reason, "%s is %f", isfinite(s->loss) ? "gradient norm" : "loss",
             isfinite(s->loss) ? s->grad_norm : s->loss);
    note_skip(t, reason);
    if (++t->guard.not_finite_in_a_row < t->run.options.max_skipped) return 0;
    log_stop(&t->run.log, t->state.step, reason);
    return fail_fault(err,
                      "step %lld: the %s, at %lld steps in a row (--max-skipped; --seed %lld, learning rate %g): "
                      "stopped without a checkpoint of this state, the log is kept in %s",
                      (long long)t->state.step, reason, (long long)t->guard.not_finite_in_a_row,
                      (long long)t->run.options.seed, s->lr, t->run.options.output);
}

static void guard_spike(Trainer *t, double limit) {
    char reason[96];
    log_spike(&t->run.log, t->state.step, t->shown.loss, limit, batch_of_last_step(t));
    snprintf(reason, sizeof reason, "loss %.4f is a spike (limit %.4f)", t->shown.loss, limit);
    if (llama3_update_applied(t->model))
        progress_print(&t->run.progress, "step %lld: %s (batch %lld)", (long long)t->state.step, reason,
                       (long long)batch_of_last_step(t));
    else
        note_skip(t, reason);
}

// ---- back to a checkpoint

static int read_back(Trainer *t, const char *folder, int64_t *step, Error *err) {
    Resume from = {0};
    snprintf(from.folder, sizeof from.folder, "%s", folder);
    int code = checkpoint_read_state(folder, &from.state, err);
    if (!code) code = resume_integer(&from, "step", 0, step, err);
    if (!code) code = resume_integer(&from, "skipped_steps", 0, &t->state.skipped_steps, err);
    if (!code) code = resume_spikes(&from, &t->state.spikes, err);
    if (!code) code = trainer_take_average(t, &from, err);
    if (!code) code = checkpoint_read_training(folder, t->model, err);
    cJSON_Delete(from.state);
    return code;
}

// Weights, moments and statistics of that checkpoint; the data go on behind the last step's batch.
static int take_back(Trainer *t, const char *folder, Error *err) {
    int64_t step = 0;
    const int64_t next_batch = t->state.step + t->state.data_offset;
    int code = team_agree(&t->run.team, read_back(t, folder, &step, err), err);
    if (code) return code;
    log_rollback(&t->run.log, t->state.step, step);
    progress_print(&t->run.progress,
                   "step %lld: rolled back to the checkpoint of step %lld; batches up to %lld left out",
                   (long long)t->state.step, (long long)step, (long long)next_batch - 1);
    t->state.step = step;
    t->state.data_offset = next_batch - step;
    return 0;
}

static int find_newest(Trainer *t, char folder[PATH_MAX], Error *err) {
    char store[PATH_MAX];
    int code = path_join(store, t->run.options.output, "checkpoints", err);
    return code ? code : store_newest_whole(folder, store, NULL, NULL, err);
}

// Rank 0 looks for it, and knows how often that was done since it was written.
static int agree_on_newest(Trainer *t, char folder[PATH_MAX], Error *err) {
    memset(folder, 0, PATH_MAX);
    int code = team_follow(&t->run.team, team_leads(&t->run.team) ? find_newest(t, folder, err) : 0, err);
    if (code || t->run.team.size == 1) return code;
    comm_host_broadcast(t->run.team.comm, folder, PATH_MAX, 0);
    comm_host_broadcast(t->run.team.comm, &t->guard.rollbacks, sizeof t->guard.rollbacks, 0);
    return 0;
}

// *done: there was a checkpoint to go back to.
static int roll_back(Trainer *t, bool *done, Error *err) {
    char folder[PATH_MAX];
    trainer_wait_saving(t);
    int code = agree_on_newest(t, folder, err);
    if (code) return code;
    if (!folder[0]) {
        progress_print(&t->run.progress, "step %lld: no checkpoint to roll back to, training goes on",
                       (long long)t->state.step);
        return 0;
    }
    if (++t->guard.rollbacks > MAX_ROLLBACKS)
        return fail_fault(err, "step %lld: a loss spike again after %d rollbacks to %s: stopped",
                          (long long)t->state.step, MAX_ROLLBACKS, folder);
    *done = true;
    return take_back(t, folder, err);
}

int trainer_guard(Trainer *t, bool *rolled_back, Error *err) {
    const ProgressState *s = &t->shown;
    *rolled_back = false;
    if (!isfinite(s->loss) || !isfinite(s->grad_norm)) return guard_not_finite(t, err);
    t->guard.not_finite_in_a_row = 0;
    // the limit as the device compared with it
    const double limit = (float)spike_limit(&t->state.spikes, t->run.options.spike_deviations);
    if (s->loss > limit) guard_spike(t, limit);
    if (s->loss > limit && t->run.options.on_spike == ON_SPIKE_ROLLBACK) {
        int code = roll_back(t, rolled_back, err);
        if (code || *rolled_back) return code;
    }
    spike_observe(&t->state.spikes, s->loss, limit);
    return 0;
}

int trainer_checksum(Trainer *t, Error *err) {
    char when[64];
    snprintf(when, sizeof when, "step %lld: weights", (long long)t->state.step);
    int code = trainer_compare_weights(t, when, err);
    if (code)
        log_stop(&t->run.log, t->state.step, err->message);
    else
        log_checksum(&t->run.log, t->state.step, llama3_checksum(t->model));
    return code;
}
