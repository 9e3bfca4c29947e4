#include "ranks/rank_status.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

// The first bytes of a small file as a string; "" if it can't be read.
static void read_text(const char *path, char *text, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? 0 : read(fd, text, size - 1);
    text[length > 0 ? length : 0] = 0;
    if (fd >= 0) close(fd);
}

// *state and *started as /proc/PID/stat has them. False: it has none.
static bool read_stat(long pid, char *state, uint64_t *started) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    read_text(path, text, sizeof text);
    const char *field = strrchr(text, ')'); // the name before it may hold anything
    if (!field || strlen(field) < 3) return false;
    field += 2;
    *state = *field; // field 3
    for (int i = 3; i < 22 && field; i++) field = strchr(field + 1, ' ');
    if (!field) return false;
    *started = strtoull(field, NULL, 10);
    return true;
}

void rank_status_self(RankStatus *status) {
    char state, boot[64], names[64] = "", all[256];
    memset(status, 0, sizeof *status);
    gethostname(status->host, sizeof status->host - 1);
    status->pid = getpid();
    if (!read_stat((long)status->pid, &state, &status->started)) status->started = 0;
    read_text("/proc/sys/kernel/random/boot_id", boot, sizeof boot);
    ssize_t length = readlink("/proc/self/ns/pid", names, sizeof names - 1);
    names[length > 0 ? length : 0] = 0;
    int used = snprintf(all, sizeof all, "%s %s %s", status->host, boot, names);
    Digest place = hash_bytes(all, (size_t)used);
    memcpy(status->place, place.text, sizeof status->place);
}

// out = FOLDER/rank_NNNNN. Errors: 2 (longer than a path may be).
static int status_path(char out[PATH_MAX], const char *folder, int rank, Error *err) {
    int length = snprintf(out, PATH_MAX, "%s/rank_%05d", folder, rank);
    if (length > 0 && length < PATH_MAX) return 0;
    return fail_input(err, "%.200s...: expected a path of at most %d bytes", folder, PATH_MAX - 1);
}

static Digest digest_of(const RankStatus *status) { return hash_bytes(status, offsetof(RankStatus, check)); }

int rank_status_write(RankStatus *status, const char *folder, Error *err) {
    char path[PATH_MAX];
    int code = status_path(path, folder, status->rank, err);
    if (code) return code;
    status->check = digest_of(status);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) return file_fail_open(err, path, errno);
    errno = 0;
    bool good = pwrite(fd, status, sizeof *status, 0) == (ssize_t)sizeof *status;
    int error_number = good ? 0 : errno ? errno : ENOSPC;
    if (close(fd) != 0 && good) error_number = errno;
    return error_number ? fail_fault(err, "%s: write: %s", path, strerror(error_number)) : 0;
}

bool rank_status_read(RankStatus *status, const char *folder, uint64_t run, int rank) {
    char path[PATH_MAX];
    RankStatus found;
    if (status_path(path, folder, rank, NULL)) return false;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t length = pread(fd, &found, sizeof found, 0);
    close(fd);
    if (length != (ssize_t)sizeof found || found.run != run || found.rank != rank) return false;
    Digest digest = digest_of(&found);
    if (memcmp(&digest, &found.check, sizeof digest) != 0) return false;
    *status = found;
    return true;
}

ProcessState rank_process(const RankStatus *status, const RankStatus *self) {
    char state;
    uint64_t started;
    if (status->pid <= 0 || strcmp(status->place, self->place) != 0) return PROCESS_UNKNOWN;
    if (kill((pid_t)status->pid, 0) != 0 && errno == ESRCH) return PROCESS_GONE;
    if (!read_stat((long)status->pid, &state, &started)) return PROCESS_UNKNOWN;
    // a zombie waits for mpirun to take note of its end
    if (state == 'Z' || state == 'X' || (status->started && started != status->started)) return PROCESS_GONE;
    return state == 'T' || state == 't' ? PROCESS_STOPPED : PROCESS_LIVES;
}
