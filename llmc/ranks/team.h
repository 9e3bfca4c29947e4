// All ranks of a run: who they are, that they are of one mind, and how they end together. What one rank alone runs into
// (a file it cannot read, an option that only it was given) becomes the end of all, with one line that names it.
#ifndef LLMC_RANKS_TEAM_H
#define LLMC_RANKS_TEAM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/hash.h"
#include "comm/comm.h"
#include "model/config.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    World *world;
    Comm *comm; // of all ranks; NULL: one
    int rank, size;
    void *scratch; // for what the others say
} Team;

// Meets the other ranks. Collective. Errors: world_open's, which each rank has for itself; 1 (memory).
int team_open(Team *team, TransportChoice transport, Error *err);
void team_close(Team *team); // collective; {0} is allowed

bool team_leads(const Team *team); // the rank that prints and writes

// How all ranks go on that come here with these codes: 0 where all have 0; else the code and message of the lowest rank
// that has one, with its rank in front unless all failed. Collective.
int team_agree(const Team *team, int code, Error *err);

// All ranks go on as rank 0 does, which alone has done something. Collective.
int team_follow(const Team *team, int code, Error *err);

// *whole = the texts of all ranks, in their order, with `between` between those that are not empty; to be freed by the
// caller, NULL after an error. Collective. Errors, on all ranks: 1 (memory).
int team_join_texts(const Team *team, const char *mine, const char *between, char **whole, Error *err);

// ---- what has to be the same on all ranks

enum { TEAM_FIELDS_AT_MOST = 128, TEAM_NAME_SIZE = 64, TEAM_VALUE_SIZE = 192 };

typedef struct {
    char name[TEAM_NAME_SIZE], value[TEAM_VALUE_SIZE]; // the value as a person reads it, cut where it is long
    Digest digest;                                     // of all of it
} TeamField;

typedef struct {
    int count;
    TeamField fields[TEAM_FIELDS_AT_MOST];
} TeamFields;

void team_add(TeamFields *to, const char *name, const char *value);

// Compares with rank 0. All ranks come with fields of the same names. Errors, on all ranks: 2 (the first rank that differs,
// its first field, both values). Collective.
int team_compare(const Team *team, const TeamFields *fields, Error *err);

// The same of model configurations.
int team_compare_config(const Team *team, const LlamaConfig *config, Error *err);

// The same of `count` checksums, of which `what` and name(i) say what they are of; but the ranks that differ are those
// that differ from most. theirs[count] is overwritten. Errors, on all ranks: 1 (rank and name).
typedef const char *(*TeamName)(const void *context, int index);
typedef struct {
    const uint64_t *sums;
    uint64_t *theirs;
    int count;
    const char *what;
    TeamName name;
    const void *context;
} TeamSums;
int team_compare_sums(const Team *team, const TeamSums *sums, Error *err);

#ifdef __cplusplus
}
#endif
#endif
