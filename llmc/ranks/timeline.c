#include "ranks/timeline.h"

#include <stdlib.h>
#include <string.h>

#include "base/new_file.h"
#include "device/trace.h"

static int write_file(const char *path, const char *events, Error *err) {
    static const char head[] = "{\"displayTimeUnit\": \"ms\", \"traceEvents\": [\n", tail[] = "\n]}\n";
    NewFile file;
    int code = file_begin(&file, path, err);
    if (code) return code;
    code = file_append(&file, head, sizeof head - 1, err);
    if (!code) code = file_append(&file, events, strlen(events), err);
    if (!code) code = file_append(&file, tail, sizeof tail - 1, err);
    if (!code) return file_commit(&file, err);
    file_discard(&file);
    return code;
}

int timeline_write(const Team *team, const char *path, Error *err) {
    char *mine = NULL, *all = NULL;
    int code = team_agree(team, trace_events(&mine, team->rank, err), err);
    if (!code && mine) code = team_join_texts(team, mine, ",\n", &all, err);
    if (!code) code = team_follow(team, team_leads(team) && all ? write_file(path, all, err) : 0, err);
    free(mine);
    free(all);
    trace_close();
    return code;
}
