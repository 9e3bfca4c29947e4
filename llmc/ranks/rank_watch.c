#include "ranks/rank_watch.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
    SMALL_WORLD = 16,
    OTHER_PHASES = 30,  // times the timeout outside of training: loading, sampling, saving
    NOBODY_BEHIND = 10, // times the timeout where all wait in the same collective
    MAX_GROUPS = 8,     // of ranks that are told apart in the line
    MAX_RANGES = 8,     // of ranks in a group
};

void rank_watch_choose(RankWatch *w) {
    for (int r = 0; r < w->size; r++) w->peers[r].watched = w->size <= SMALL_WORLD;
    for (int step = 1; step < w->size; step *= 2) w->peers[(w->rank + step) % w->size].watched = true;
    w->peers[w->rank].watched = true;
}

// ---- looking

void rank_watch_note(Peer *peer, const RankStatus *status, double seconds) {
    const bool moved = !peer->known || status->begun != peer->last.begun || status->ended != peer->last.ended;
    peer->silent = peer->known && status->count == peer->last.count ? peer->silent + seconds : 0;
    peer->still = moved ? 0 : peer->still + seconds;
    peer->last = *status;
    peer->known = true;
}

void rank_watch_look(RankWatch *w, int rank, double seconds) {
    Peer *peer = &w->peers[rank];
    RankStatus status;
    if (peer->known) peer->process = rank_process(&peer->last, &w->peers[w->rank].last);
    if (rank_status_read(&status, w->folder, w->run, rank)) {
        rank_watch_note(peer, &status, seconds);
    } else {
        peer->silent += seconds;
        peer->still += seconds;
    }
}

// ---- the line

static size_t append(char *line, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));
static size_t append(char *line, size_t size, const char *format, ...) {
    size_t used = strlen(line);
    va_list arguments;
    va_start(arguments, format);
    if (used < size) vsnprintf(line + used, size - used, format, arguments);
    va_end(arguments);
    return strlen(line);
}

static bool is_waiting(const Peer *peer) { return peer->last.begun > peer->last.ended; }

static bool same_place(const Peer *a, const Peer *b) {
    return is_waiting(a) == is_waiting(b) && a->last.begun == b->last.begun &&
           strncmp(a->last.label, b->last.label, sizeof a->last.label) == 0;
}

static bool is_told(const RankWatch *w, int rank, int accused) {
    return rank != accused && w->peers[rank].known && w->peers[rank].last.state != RANK_DONE;
}

static bool is_member(const RankWatch *w, int rank, int first, int accused) {
    return is_told(w, rank, accused) && same_place(&w->peers[rank], &w->peers[first]);
}

// "rank 3", "ranks 0-2,5"
static void append_ranks(const RankWatch *w, int first, int accused, char *line, size_t size) {
    char list[256] = "";
    int count = 0, ranges = 0;
    for (int r = first; r < w->size; r++) {
        if (!is_member(w, r, first, accused)) continue;
        int last = r;
        while (last + 1 < w->size && is_member(w, last + 1, first, accused)) last++;
        count += last - r + 1;
        if (++ranges <= MAX_RANGES) {
            append(list, sizeof list, "%s%d", ranges > 1 ? "," : "", r);
            if (last > r) append(list, sizeof list, "%c%d", last > r + 1 ? '-' : ',', last);
        } else if (ranges == MAX_RANGES + 1) {
            append(list, sizeof list, ",...");
        }
        r = last;
    }
    static const char *const verbs[2][2] = {{"is past", "are past"}, {"waits in", "wait in"}};
    append(line, size, "rank%s %s %s", count > 1 ? "s" : "", list, verbs[is_waiting(&w->peers[first])][count > 1]);
}

static void append_collective(const Peer *peer, char *line, size_t size) {
    append(line, size, " #%llu %.63s", (unsigned long long)peer->last.begun,
           peer->last.begun ? peer->last.label : "start");
}

void rank_watch_describe(const RankWatch *w, int accused, const char *message, char *line, size_t size) {
    int groups = 0;
    snprintf(line, size, "%s", message);
    for (int r = 0; r < w->size; r++) {
        if (!is_told(w, r, accused)) continue;
        int first = 0;
        while (!is_member(w, first, r, accused)) first++;
        if (first < r) continue; // told with the first of its group
        if (++groups > MAX_GROUPS) {
            append(line, size, ", ...");
            return;
        }
        append(line, size, groups == 1 ? "; " : ", ");
        append_ranks(w, r, accused, line, size);
        append_collective(&w->peers[r], line, size);
    }
}

// ---- the judgement

// All ranks are in the same step, so that the furthest tells best where a rank was whose own word is a second old.
static int64_t last_step(const RankWatch *w) {
    int64_t step = 0;
    for (int r = 0; r < w->size; r++)
        if (w->peers[r].known && w->peers[r].last.step > step) step = w->peers[r].last.step;
    return step;
}

static RankVerdict accuse(RankWatch *w, int rank, char *line, size_t size, const char *what) {
    const Peer *peer = &w->peers[rank];
    char message[512] = "";
    for (int r = 0; r < w->size; r++)
        if (r != w->rank) rank_watch_look(w, r, 0);
    append(message, sizeof message, "rank %d", rank);
    if (peer->known) append(message, sizeof message, " (%.63s/%lld)", peer->last.host, (long long)peer->last.pid);
    append(message, sizeof message, " %s", what);
    append(message, sizeof message, "; last step %lld", (long long)last_step(w));
    if (peer->known) {
        append(message, sizeof message, "; %.30s, last seen %s", peer->last.phase, is_waiting(peer) ? "in" : "after");
        append_collective(peer, message, sizeof message);
    }
    rank_watch_describe(w, rank, message, line, size);
    return RANKS_FAULT;
}

static RankVerdict judge_silent(RankWatch *w, int rank, char *line, size_t size) {
    const Peer *peer = &w->peers[rank];
    char what[128];
    if (!peer->known)
        snprintf(what, sizeof what, "has written no status for %.0f s (is --output on all machines the same folder?)",
                 peer->silent);
    else if (peer->process == PROCESS_STOPPED)
        snprintf(what, sizeof what, "is stopped (SIGSTOP?), for %.0f s now", peer->silent);
    else
        snprintf(what, sizeof what, "has given no sign of life for %.0f s", peer->silent);
    return accuse(w, rank, line, size, what);
}

static RankVerdict judge_one(RankWatch *w, int rank, char *line, size_t size) {
    const Peer *peer = &w->peers[rank];
    if (peer->known && (peer->last.state == RANK_DOOMED || peer->last.state == RANK_FAILED)) return RANKS_END;
    if (peer->known && peer->last.state == RANK_DONE) return RANKS_WELL;
    if (peer->process == PROCESS_GONE) return accuse(w, rank, line, size, "is gone: killed, or crashed");
    return peer->silent > w->timeout ? judge_silent(w, rank, line, size) : RANKS_WELL;
}

static bool runs(const Peer *peer) { return peer->known && peer->last.state == RANK_RUNS; }

// Is rank b behind rank a, which has waited for it too long?
static bool is_waited_for(const RankWatch *w, int b, int a) {
    const Peer *behind = &w->peers[b], *waiting = &w->peers[a];
    const double limit = w->timeout * (strcmp(behind->last.phase, "training") == 0 ? 1 : OTHER_PHASES);
    return runs(behind) && runs(waiting) && is_waiting(waiting) && behind->last.begun < waiting->last.begun &&
           waiting->still > limit && behind->still > limit;
}

// The rank with the fewest collectives: what waits for one that is hung may itself keep others waiting.
static int furthest_behind(const RankWatch *w) {
    int found = -1;
    for (int r = 0; r < w->size; r++)
        if (runs(&w->peers[r]) && (found < 0 || w->peers[r].last.begun < w->peers[found].last.begun)) found = r;
    return found;
}

static RankVerdict judge_hung(RankWatch *w, char *line, size_t size) {
    for (int a = 0; a < w->size; a++) {
        for (int b = 0; w->peers[a].watched && b < w->size; b++) {
            if (!w->peers[b].watched || !is_waited_for(w, b, a)) continue;
            char what[128];
            snprintf(what, sizeof what, "hangs: others have waited for it for %.0f s", w->peers[a].still);
            for (int r = 0; r < w->size; r++)
                if (r != w->rank) rank_watch_look(w, r, 0);
            return accuse(w, furthest_behind(w), line, size, what);
        }
    }
    return RANKS_WELL;
}

static RankVerdict judge_all_waiting(const RankWatch *w, char *line, size_t size) {
    for (int r = 0; r < w->size; r++) {
        const Peer *peer = &w->peers[r];
        if (!peer->watched || (peer->known && peer->last.state == RANK_DONE)) continue;
        if (!runs(peer) || !is_waiting(peer) || peer->still <= NOBODY_BEHIND * w->timeout) return RANKS_WELL;
    }
    char message[256];
    snprintf(message, sizeof message,
             "collectives stand still for %.0f s and no rank is behind: the network?; last step %lld",
             w->peers[w->rank].still, (long long)last_step(w));
    rank_watch_describe(w, -1, message, line, size);
    return RANKS_FAULT;
}

RankVerdict rank_watch_judge(RankWatch *w, char *line, size_t size) {
    for (int r = 0; r < w->size; r++) { // the end that another rank has told comes first: one line is enough
        const Peer *peer = &w->peers[r];
        if (r != w->rank && peer->known && (peer->last.state == RANK_DOOMED || peer->last.state == RANK_FAILED))
            return RANKS_END;
    }
    for (int r = 0; r < w->size; r++) {
        if (r == w->rank || !w->peers[r].watched) continue;
        RankVerdict verdict = judge_one(w, r, line, size);
        if (verdict != RANKS_WELL) return verdict;
    }
    RankVerdict verdict = judge_hung(w, line, size);
    return verdict != RANKS_WELL ? verdict : judge_all_waiting(w, line, size);
}
