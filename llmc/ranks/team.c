#include "ranks/team.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/config_compare.h"

int team_open(Team *team, TransportChoice transport, Error *err) {
    *team = (Team){.size = 1};
    int code = world_open(&team->world, transport, err);
    if (code) return code;
    team->comm = world_comm(team->world);
    team->rank = world_rank(team->world);
    team->size = world_size(team->world);
    const size_t errors = (size_t)team->size * sizeof(Error);
    team->scratch = malloc(errors > sizeof(TeamFields) ? errors : sizeof(TeamFields));
    return team->scratch ? 0 : fail_fault(err, "no memory for what %d ranks exchange", team->size);
}

void team_close(Team *team) {
    world_close(team->world);
    free(team->scratch);
    *team = (Team){.size = 1};
}

bool team_leads(const Team *team) { return team->rank == 0; }

// ---- agreeing on a code

// The first rank that failed; *failed: how many did.
static int first_failed(const Error *errors, int size, int *failed) {
    int first = -1;
    *failed = 0;
    for (int i = 0; i < size; i++) {
        if (!errors[i].code) continue;
        if (first < 0) first = i;
        ++*failed;
    }
    return first;
}

static void take_error(Error *err, const Error *from, int rank, bool named) {
    err->code = from->code;
    if (named)
        snprintf(err->message, sizeof err->message, "rank %d: %.*s", rank, (int)sizeof err->message - 24,
                 from->message);
    else
        memcpy(err->message, from->message, sizeof err->message);
}

int team_agree(const Team *team, int code, Error *err) {
    int64_t failures = code != 0;
    if (team->size == 1) return code;
    comm_host_sum(team->comm, &failures, 1);
    if (failures == 0) return 0;
    Error mine = {0};
    if (code) mine = *err;
    mine.code = code;
    Error *all = team->scratch;
    comm_host_gather(team->comm, all, &mine, sizeof mine);
    int failed, first = first_failed(all, team->size, &failed);
    take_error(err, &all[first], first, failed < team->size);
    return err->code;
}

int team_follow(const Team *team, int code, Error *err) {
    Error leader = {0};
    if (team->size == 1) return code;
    if (code) leader = *err;
    comm_host_broadcast(team->comm, &leader, sizeof leader, 0);
    if (leader.code) *err = leader;
    return leader.code;
}

// ---- texts

// The longest one's size, its zero byte included.
static size_t longest_text(const Team *team, const char *mine) {
    int64_t size = (int64_t)strlen(mine) + 1, longest = 1, *all = team->scratch;
    if (team->size == 1) return (size_t)size;
    comm_host_gather(team->comm, all, &size, sizeof size);
    for (int i = 0; i < team->size; i++)
        if (all[i] > longest) longest = all[i];
    return (size_t)longest;
}

// to has room for all of them.
static void join(char *to, const char *all, size_t size, int count, const char *between) {
    char *end = to;
    *to = 0;
    for (int i = 0; i < count; i++) {
        const char *text = all + size * (size_t)i;
        if (*text && end > to) end = stpcpy(end, between);
        end = stpcpy(end, text);
    }
}

int team_join_texts(const Team *team, const char *mine, const char *between, char **whole, Error *err) {
    const size_t size = longest_text(team, mine), ranks = (size_t)team->size;
    char *all = calloc(ranks + 1, size), *own = all ? all + ranks * size : NULL;
    *whole = malloc(ranks * (size + strlen(between)));
    int code = all && *whole ? 0 : fail_fault(err, "no memory for what %d ranks exchange", team->size);
    code = team_agree(team, code, err);
    if (!code && own && *whole) {
        strcpy(own, mine); // the longest has room
        comm_host_gather(team->comm, all, own, size);
        join(*whole, all, size, team->size, between);
    } else {
        free(*whole);
        *whole = NULL;
    }
    free(all);
    return code;
}

// ---- the same on all ranks

void team_add(TeamFields *to, const char *name, const char *value) {
    assert(to->count < TEAM_FIELDS_AT_MOST);
    TeamField *field = &to->fields[to->count++];
    snprintf(field->name, sizeof field->name, "%s", name);
    snprintf(field->value, sizeof field->value, "%s", value);
    field->digest = hash_bytes(value, strlen(value));
}

// Which field is the first that differs from rank 0's; -1: none.
static int first_difference(const TeamFields *mine, const TeamFields *leader) {
    const int count = mine->count < leader->count ? mine->count : leader->count;
    for (int i = 0; i < count; i++)
        if (strcmp(mine->fields[i].digest.text, leader->fields[i].digest.text) != 0) return i;
    return -1;
}

static int fail_difference(const char *name, const char *mine, const char *leader, Error *err) {
    return fail_input(err, "%s is %s, on rank 0 it is %s: expected the same on all ranks", name, mine, leader);
}

// Each rank compares its own with rank 0's; the lowest that differs reports it for all.
int team_compare(const Team *team, const TeamFields *fields, Error *err) {
    if (team->size == 1) return 0;
    TeamFields *leader = team->scratch;
    *leader = *fields;
    comm_host_broadcast(team->comm, leader, sizeof *leader, 0);
    int at = first_difference(fields, leader);
    int code =
        at < 0 ? 0 : fail_difference(fields->fields[at].name, fields->fields[at].value, leader->fields[at].value, err);
    return team_agree(team, code, err);
}

int team_compare_config(const Team *team, const LlamaConfig *config, Error *err) {
    char field[LLAMA_FIELD_TEXT], mine[LLAMA_FIELD_TEXT], theirs[LLAMA_FIELD_TEXT], name[LLAMA_FIELD_TEXT + 16];
    LlamaConfig leader = *config;
    if (team->size == 1) return 0;
    comm_host_broadcast(team->comm, &leader, sizeof leader, 0);
    int code = 0;
    if (llama_config_difference(config, &leader, field, mine, theirs)) {
        snprintf(name, sizeof name, "config.json: %s", field);
        code = fail_difference(name, mine, theirs, err);
    }
    return team_agree(team, code, err);
}

// The lowest rank that has what most have; of equal numbers, what the lowest rank has.
static int rank_of_most(const uint64_t *all, int size) {
    int best = 0, most = 0;
    for (int i = 0; i < size; i++) {
        int same = 0;
        for (int j = 0; j < size; j++) same += all[j] == all[i];
        if (same <= most) continue;
        most = same;
        best = i;
    }
    return best;
}

int team_compare_sums(const Team *team, const TeamSums *s, Error *err) {
    uint64_t combined = 0, *all = team->scratch;
    if (team->size == 1) return 0;
    for (int i = 0; i < s->count; i++) combined = combined * 0x9E3779B97F4A7C15u + s->sums[i];
    comm_host_gather(team->comm, all, &combined, sizeof combined);
    const int model = rank_of_most(all, team->size);
    memcpy(s->theirs, s->sums, (size_t)s->count * sizeof *s->sums);
    comm_host_broadcast(team->comm, s->theirs, (size_t)s->count * sizeof *s->theirs, model);
    int at = 0, code = 0;
    while (at < s->count && s->sums[at] == s->theirs[at]) at++;
    if (at < s->count)
        code = fail_fault(err, "%s: %s has checksum %016llx, on rank %d it has %016llx: expected the same on all ranks",
                          s->what, s->name(s->context, at), (unsigned long long)s->sums[at], model,
                          (unsigned long long)s->theirs[at]);
    return team_agree(team, code, err);
}
