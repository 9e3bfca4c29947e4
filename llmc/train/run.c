#include "train/run.h"

#include <signal.h>

#include "run/process.h"

// ---- how the ranks divide the model

int run_check_shard_group(const Options *o, int ranks, Error *err) {
    const int group = options_shard_group(o, ranks);
    if (o->zero == 0 && o->shard_group > 1)
        return fail_input(err, "--shard-group %lld: expected --zero 1 or 2, --zero 0 divides nothing",
                          (long long)o->shard_group);
    if (ranks % group == 0) return 0;
    return fail_input(err, "--shard-group %d: expected a divisor of the number of ranks, %d", group, ranks);
}

int run_divide(Run *run, Error *err) {
    const Team *team = &run->team;
    const int group = options_shard_group(&run->options, team->size);
    int code = run_check_shard_group(&run->options, team->size, err);
    if (code || !team->comm) return code; // one rank divides nothing
    Parallel *p = &run->parallel;
    *p = (Parallel){.zero = (int)run->options.zero,
                    .shards = group,
                    .shard = team->rank % group,
                    .replicas = team->size / group,
                    .world = team->comm,
                    .grad_reduce = (GradReduce)run->options.grad_reduce,
                    .overlap = run->options.overlap};
    code = world_split(&p->shard_comm, team->world, team->rank / group, err);
    if (!code) code = world_split(&p->replica_comm, team->world, team->rank % group, err);
    return team_agree(team, code, err);
}

// ---- the model

RunShape run_shape(const Run *run) {
    const Options *o = &run->options;
    return (RunShape){.B = (int)o->batch_size,
                      .T = (int)o->seq_len,
                      .micro_batches = (int)o->grad_accum,
                      .training = true,
                      .recompute = (Recompute)o->recompute,
                      .activations = (ActivationsPlace)o->activations,
                      .moments = (Moments)o->moments,
                      .master_weights = (MasterWeights)o->master_weights,
                      .optimizer_state = (StatePlace)o->optimizer_state,
                      .parallel = run->parallel,
                      .attention = (AttentionBy)o->attention,
                      .graph = o->cuda_graph,
                      .average = o->average_from > 0,
                      .part = {o->train_only, (int)o->lora_rank, o->lora_alpha, o->lora_targets}};
}

// ---- signals to stop

static const int stop_signals[RUN_SIGNALS] = {SIGTERM, SIGINT, SIGUSR1};

void run_send_signals(int64_t numbers[RUN_SIGNALS]) {
    for (int i = 0; i < RUN_SIGNALS; i++) numbers[i] = process_stop_signal() == stop_signals[i];
}

void run_receive_signals(Run *run, const int64_t sums[RUN_SIGNALS]) {
    for (int i = 0; i < RUN_SIGNALS; i++)
        if (sums[i] && !run->stop_signal) run->stop_signal = stop_signals[i];
}

void run_agree_on_stopping(Run *run) {
    int64_t numbers[RUN_SIGNALS];
    if (run->team.size == 1) return;
    run_send_signals(numbers);
    comm_host_sum(run->team.comm, numbers, RUN_SIGNALS);
    run_receive_signals(run, numbers);
}

int run_stop_signal(const Run *run) { return run->team.size == 1 ? process_stop_signal() : run->stop_signal; }

bool run_done(const Run *run, int64_t step) { return step >= run->options.steps || run_stop_signal(run); }
