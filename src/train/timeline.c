#include "train/timeline.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "target/trace.h"

// The longest rank's part, so that all have the same size: the parts behind their zero bytes are blank.
static int64_t longest_part(const Team *team, const char *events) {
    int64_t mine = (int64_t)strlen(events) + 1, longest = 0, *all = team->scratch;
    if (team->size == 1) return mine;
    comm_host_gather(team->comm, all, &mine, sizeof mine);
    for (int i = 0; i < team->size; i++)
        if (all[i] > longest) longest = all[i];
    return longest;
}

static int write_parts(const char *path, const char *all, size_t part, int size, Error *err) {
    static const char head[] = "{\"displayTimeUnit\": \"ms\", \"traceEvents\": [\n", tail[] = "\n]}\n";
    NewFile file;
    int code = file_begin(&file, path, err), written = 0;
    if (code) return code;
    code = file_append(&file, head, sizeof head - 1, err);
    for (int i = 0; !code && i < size; i++) {
        const char *events = all + part * (size_t)i;
        if (!*events) continue;
        if (written++) code = file_append(&file, ",\n", 2, err);
        if (!code) code = file_append(&file, events, strlen(events), err);
    }
    if (!code) code = file_append(&file, tail, sizeof tail - 1, err);
    if (!code) return file_commit(&file, err);
    file_discard(&file);
    return code;
}

// events: on all ranks, or on none.
static int gather_and_write(const Team *team, const char *path, const char *events, Error *err) {
    const size_t part = (size_t)longest_part(team, events);
    char *all = calloc((size_t)team->size + 1, part), *mine = all ? all + part * (size_t)team->size : NULL;
    int code = team_agree(team, all ? 0 : fail_fault(err, "%s: no memory for the timeline", path), err);
    if (!code && mine) {
        memcpy(mine, events, strlen(events));
        comm_host_gather(team->comm, all, mine, part);
        code = team_agree(team, team_leads(team) ? write_parts(path, all, part, team->size, err) : 0, err);
    }
    free(all);
    return code;
}

int timeline_write(const Team *team, const char *path, Error *err) {
    char *events = NULL;
    int code = team_agree(team, trace_events(&events, team->rank, err), err);
    if (!code) code = gather_and_write(team, path, events, err);
    free(events);
    trace_close();
    return code;
}
