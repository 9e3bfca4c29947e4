// What the ranks of a run have to be of one mind about: how training is divided among them, options, data and weights,
// the checkpoint that is resumed, and at each step whether all go on.
#include "model/llama3_weights.h"
#include "train/trainer_internal.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sha256.h"
#include "base/text.h"
#include "base/version.h"
#include "run/process.h"

// ---- how training is divided

int trainer_shard_group(const Options *o, int ranks) {
    return o->zero == 0 ? 1 : o->shard_group ? (int)o->shard_group : ranks;
}

static int check_shard_group(const Trainer *t, int group, Error *err) {
    const Options *o = &t->run.options;
    if (o->zero == 0 && o->shard_group > 1)
        return fail_input(err, "--shard-group %lld: expected --zero 1 or 2, --zero 0 divides nothing",
                          (long long)o->shard_group);
    if (t->run.team.size % group == 0) return 0;
    return fail_input(err, "--shard-group %d: expected a divisor of the number of ranks, %d", group, t->run.team.size);
}

int trainer_divide(Trainer *t, Error *err) {
    const Team *team = &t->run.team;
    const int group = trainer_shard_group(&t->run.options, team->size);
    int code = check_shard_group(t, group, err);
    if (code || !team->comm) return code; // one rank
    Parallel *p = &t->run.parallel;
    *p = (Parallel){.zero = (int)t->run.options.zero,
                    .shards = group,
                    .shard = team->rank % group,
                    .replicas = team->size / group,
                    .world = team->comm,
                    .overlap = t->run.options.overlap};
    code = world_split(&p->shard_comm, team->world, team->rank / group, err);
    if (!code) code = world_split(&p->replica_comm, team->world, team->rank % group, err);
    return team_agree(team, code, err);
}

void trainer_describe_ranks(char *text, size_t capacity, const Options *o, int ranks) {
    if (ranks == 1)
        snprintf(text, capacity, "1 rank");
    else
        snprintf(text, capacity, "%d ranks, ZeRO-%lld, shard group %d", ranks, (long long)o->zero,
                 trainer_shard_group(o, ranks));
}

// ---- what has to be the same on all ranks

static void add_option(void *fields, const char *name, const char *value) {
    char option[TEAM_NAME_SIZE];
    snprintf(option, sizeof option, "--%s", name);
    team_add(fields, option, value);
}

int trainer_compare_options(const Team *team, const Options *options, Error *err) {
    TeamFields program = {.count = 0}, *fields = calloc(1, sizeof *fields);
    int code = fields ? 0 : fail_fault(err, "out of memory");
    if (fields) options_visit_shared(options, add_option, fields);
    code = team_agree(team, code, err);
    team_add(&program, "version", LLMC_VERSION); // first, lest options of two versions are compared
    team_add(&program, "precision", state_precision());
    if (!code) code = team_compare(team, &program, err);
    if (!code) code = team_compare(team, fields, err);
    free(fields);
    return code;
}

int trainer_compare_data(const Trainer *t, Error *err) {
    char fingerprint[17], sha[65], step[24];
    TeamFields fields = {.count = 0};
    state_fingerprint(fingerprint, loader_fingerprint(t->data.train));
    team_add(&fields, "--train-data: fingerprint", fingerprint);
    state_fingerprint(fingerprint, t->data.val ? loader_fingerprint(t->data.val) : 0);
    team_add(&fields, "--val-data: fingerprint", fingerprint);
    text_hex(sha, tokenizer_sha256(t->data.tokenizer), SHA256_BYTES);
    team_add(&fields, "tokenizer: SHA-256", sha);
    snprintf(step, sizeof step, "%lld", (long long)t->state.step);
    team_add(&fields, "--resume: the checkpoint's step", step);
    int code = team_compare_config(&t->run.team, &t->run.config, err);
    return code ? code : team_compare(&t->run.team, &fields, err);
}

static const char *tensor_name(const void *table, int index) {
    return ((const ParameterTable *)table)->tensors[index].name;
}

int trainer_compare_weights(Trainer *t, const char *when, Error *err) {
    const ParameterTable *table = llama3_parameters(t->model);
    if (t->run.team.size == 1) return 0;
    llama3_checksums(t->model, t->guard.checksums);
    const TeamSums sums = {
        t->guard.checksums, t->guard.checksums + table->count, table->count, when, tensor_name, table};
    return team_compare_sums(&t->run.team, &sums, err);
}

// ---- the checkpoint that is resumed

typedef struct {
    char folder[PATH_MAX];
    bool own, chosen;
} Choice;

int trainer_share_resume(Trainer *t, Error *err) {
    Resume *r = &t->resume;
    Choice choice = {.own = r->own, .chosen = r->chosen};
    if (t->run.team.size == 1) return 0;
    memcpy(choice.folder, r->folder, sizeof choice.folder);
    comm_host_broadcast(t->run.team.comm, &choice, sizeof choice, 0);
    return team_leads(&t->run.team) ? 0 : resume_follow(r, choice.folder, choice.own, choice.chosen, err);
}

// ---- at each step

enum { SIGNALS = 3 };
static const int stop_signals[SIGNALS] = {SIGTERM, SIGINT, SIGUSR1};

typedef enum {
    SAY_TARGETS,
    SAY_FAILURES,
    SAY_WRITING,
    SAY_NOT_WRITTEN,
    SAY_SIGNALS,
    SAYINGS = SAY_SIGNALS + SIGNALS
} Say;

static void say_signal(int64_t *say) {
    for (int i = 0; i < SIGNALS; i++) say[SAY_SIGNALS + i] = process_stop_signal() == stop_signals[i];
}

static void hear_signal(Trainer *t, const int64_t *heard) {
    for (int i = 0; i < SIGNALS; i++)
        if (heard[SAY_SIGNALS + i] && !t->run.stop_signal) t->run.stop_signal = stop_signals[i];
}

int trainer_agree_on_step(Trainer *t, int code, int64_t *num_targets, Error *err) {
    int64_t say[SAYINGS] = {[SAY_TARGETS] = *num_targets, [SAY_FAILURES] = code != 0};
    if (t->run.team.size == 1) return code;
    trainer_say_saving(t, &say[SAY_WRITING], &say[SAY_NOT_WRITTEN]);
    say_signal(say);
    comm_host_sum(t->run.team.comm, say, SAYINGS);
    hear_signal(t, say);
    *num_targets = say[SAY_TARGETS];
    if (say[SAY_FAILURES]) return team_agree(&t->run.team, code, err);
    trainer_hear_saving(t, say[SAY_WRITING], say[SAY_NOT_WRITTEN]);
    return 0;
}

void trainer_agree_on_stopping(Trainer *t) {
    int64_t say[SAYINGS] = {0};
    if (t->run.team.size == 1) return;
    say_signal(say);
    comm_host_sum(t->run.team.comm, say, SAYINGS);
    hear_signal(t, say);
}

int trainer_stop_signal(const Trainer *t) { return t->run.team.size == 1 ? process_stop_signal() : t->run.stop_signal; }
