// All ranks of a run: who they are, that they agree, and how they end together. An error of one rank alone (a file that it
// cannot read, an option that only it was given) ends all of them, with one line that names the rank.
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
    void *scratch; // for what the ranks exchange
} Team;

// Meets the other ranks. Collective. Errors: world_open's, which each rank has for itself; 1 (memory).
int team_open(Team *team, TransportChoice transport, Error *err);
void team_close(Team *team); // collective; {0} is allowed

bool team_leads(const Team *team); // the rank that prints and writes

// The code on which all ranks agree: 0 where all have 0; else the code and message of the lowest rank that failed, with
// its number in front unless all failed. Collective.
int team_agree(const Team *team, int code, Error *err);

// All ranks take the code and message of rank 0, which alone has done something. Collective.
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

// Compares each rank's fields, which have the same names on all, with rank 0's. Errors, on all ranks: 2 (the first rank
// that differs, its first field, both values). Collective.
int team_compare(const Team *team, const TeamFields *fields, Error *err);

// The same of model configurations.
int team_compare_config(const Team *team, const LlamaConfig *config, Error *err);

// The same of `count` checksums; `what` and name(i) say of what checksum i is. A rank differs here if its checksums are not
// those of most ranks. theirs[count] is overwritten. Errors, on all ranks: 1 (rank and name).
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
