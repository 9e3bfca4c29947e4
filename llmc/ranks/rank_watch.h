// What a rank knows of the others, and its judgement of them.
#ifndef LLMC_RANKS_RANK_WATCH_H
#define LLMC_RANKS_RANK_WATCH_H

#include <stdbool.h>

#include "ranks/rank_status.h"

#ifdef __cplusplus
extern "C" {
#endif

// Seconds count only while this rank itself looked and wrote, so that a rank that was stopped, or waited for a file
// server, blames no other for it.
typedef struct {
    RankStatus last; // what it wrote last; this rank's own is kept here too
    bool known;      // last holds something of this run
    bool watched;    // looked at all the time; the others only when a verdict is written
    ProcessState process;
    double silent; // seconds since its file changed
    double still;  // seconds since it began or ended a collective
} Peer;

typedef struct {
    int rank, size;
    double timeout;
    char folder[PATH_MAX];
    uint64_t run;
    Peer *peers; // [size]
} RankWatch;

// Chooses which ranks to watch: all of a small world; of a large one those 1, 2, 4, ... ranks further on, so that each is
// watched by some, and what one rank knows reaches all in a few looks.
void rank_watch_choose(RankWatch *w);

// Looks at one rank's process and file (in this order: what it wrote last, it wrote before its end). seconds: since the
// last look.
void rank_watch_look(RankWatch *w, int rank, double seconds);

// Takes a status that was read or received. The seconds of silence and stillness go on, or begin anew where it shows
// progress.
void rank_watch_note(Peer *peer, const RankStatus *status, double seconds);

typedef enum { RANKS_WELL, RANKS_END /* another rank has given a verdict */, RANKS_FAULT } RankVerdict;

// Judges what is known. RANKS_FAULT: line = one line of text, without a newline, for which all files were read again.
RankVerdict rank_watch_judge(RankWatch *w, char *line, size_t size);

// line = message, then where each rank is: "MESSAGE; ranks 0,1,3 wait in #812 layer 2 gradients". accused: the rank that is
// left out; -1: none.
void rank_watch_describe(const RankWatch *w, int accused, const char *message, char *line, size_t size);

#ifdef __cplusplus
}
#endif
#endif
