// The timeline of all ranks as one file (device/trace.h): the JSON object that Perfetto and chrome://tracing open.
#ifndef LLMC_RANKS_TIMELINE_H
#define LLMC_RANKS_TIMELINE_H

#include "base/error.h"
#include "ranks/team.h"

#ifdef __cplusplus
extern "C" {
#endif

// Takes every rank's spans since trace_open, ends recording, and writes them to the file as rank 0. Collective. Errors, on
// all ranks: 2 (the path), 1.
int timeline_write(const Team *team, const char *path, Error *err);

#ifdef __cplusplus
}
#endif
#endif
